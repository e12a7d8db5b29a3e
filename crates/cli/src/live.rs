//! The view of training on a terminal, drawn anew a few times a second.
//!
//! It is nothing but lines: the terminal stays in the mode it was in, and the cursor waits at the beginning of the line below, so
//! that there is nothing to restore however the program ends.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use console::{Term, measure_text_width};
use trimtab::floors::train::StepRecord;

use crate::dashboard::Dashboard;

/// Time between two drawings.
const TICK: Duration = Duration::from_millis(200);
/// Rows and columns where the terminal does not say.
const USUAL: (u16, u16) = (24, 80);

/// The view. What was drawn last stays when it is dropped.
pub struct Live {
    shared: Arc<(Mutex<Screen>, Condvar)>,
    ticker: Option<JoinHandle<()>>,
}

struct Screen {
    term: Term,
    dashboard: Dashboard,
    begun: Instant,
    /// When the last step was done.
    stepped: Instant,
    /// Widths of the lines that stand there.
    drawn: Vec<usize>,
    over: bool,
}

impl Screen {
    fn size(&self) -> (usize, usize) {
        let (rows, columns) = self.term.size_checked().unwrap_or(USUAL);
        (rows.max(2).into(), columns.max(2).into())
    }

    fn draw(&mut self) -> std::io::Result<()> {
        self.clear()?;
        let (rows, columns) = self.size();
        // A full last column would leave the cursor between two lines.
        let mut lines = self.dashboard.lines(columns - 1, self.begun.elapsed(), self.stepped.elapsed());
        lines.truncate(rows - 1);
        for line in &lines {
            self.term.write_line(line)?;
        }
        self.drawn = lines.iter().map(|line| measure_text_width(line)).collect();
        self.term.flush()
    }

    fn clear(&mut self) -> std::io::Result<()> {
        // What was typed since, such as ^C.
        self.term.clear_line()?;
        let (rows, columns) = self.size();
        // A terminal that was made narrower has broken the lines.
        let height: usize = self.drawn.drain(..).map(|width| width.div_ceil(columns).max(1)).sum();
        if height > 0 {
            self.term.clear_last_lines(height.min(rows - 1))?;
        }
        Ok(())
    }
}

impl Live {
    /// A view of a run that began then, with nothing to show so far.
    pub fn new(begun: Instant) -> Self {
        let screen = Screen {
            term: Term::buffered_stderr(),
            dashboard: Dashboard::default(),
            begun,
            stepped: Instant::now(),
            drawn: Vec::new(),
            over: false,
        };
        let shared = Arc::new((Mutex::new(screen), Condvar::new()));
        let its = shared.clone();
        // Without a thread nothing is shown, which is no reason to stop.
        let ticker = std::thread::Builder::new().name("view".into()).spawn(move || tick(&its)).ok();
        Self { shared, ticker }
    }

    /// Takes up a step.
    pub fn add(&self, record: &StepRecord, unit: &'static str) {
        let mut screen = self.screen();
        screen.dashboard.add(record, unit);
        screen.stepped = Instant::now();
    }

    /// Writes something above the view.
    pub fn above(&self, write: impl FnOnce()) {
        let mut screen = self.screen();
        // Nobody is left to tell if stderr is closed.
        let _ = screen.clear().and_then(|()| screen.term.flush());
        write();
        let _ = screen.draw();
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Draws until the view is over, and once more then.
fn tick((screen, changed): &(Mutex<Screen>, Condvar)) {
    let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let _ = screen.draw();
        if screen.over {
            return;
        }
        screen = changed.wait_timeout(screen, TICK).unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.screen().over = true;
        self.shared.1.notify_all();
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
    }
}
