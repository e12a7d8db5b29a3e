//! Damaged payloads: errors or finite numbers, never a panic.

use std::cell::RefCell;
use std::sync::Mutex;

use trimtab_exchange::{Communicator, Compressor, Input, Qsgd, Result, RoundingMode, TopK};
use trimtab_hostile::storm_of;

use crate::support::gradient;

const SHAPE: [usize; 2] = [24, 50];

/// A group of two in which the other rank's bytes are given: those of the scatter, then those of the gather.
struct Scripted {
    scatter: Vec<u8>,
    gather: Vec<u8>,
    /// What this rank has sent, in order.
    sent: Mutex<Vec<Vec<u8>>>,
}

impl Communicator for Scripted {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        2
    }

    fn all_reduce_sum(&self, _values: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.sent.lock().unwrap().push(bytes.to_vec());
        Ok(vec![bytes.to_vec(), self.gather.clone()])
    }

    fn all_to_all(&self, mut parts: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        self.sent.lock().unwrap().push(parts.remove(1));
        Ok(vec![Vec::new(), self.scatter.clone()])
    }

    fn broadcast(&self, _bytes: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn sent_bytes(&self) -> u64 {
        0
    }
}

/// Whether a reduction beside these bytes of the other rank is taken; what is taken must be finite.
fn taken(compressor: &mut dyn Compressor, level: usize, scatter: &[u8], gather: &[u8]) -> bool {
    let values = gradient(0, 0, SHAPE[0], SHAPE[1]);
    let input = Input { name: "w", n: SHAPE[0], m: SHAPE[1], level, values: &values };
    let comm = Scripted { scatter: scatter.to_vec(), gather: gather.to_vec(), sent: Mutex::default() };
    match compressor.reduce(&[input], &comm) {
        Ok(Some(reduced)) => {
            let residual = reduced[0].residual.iter().flatten();
            assert!(reduced[0].mean.iter().chain(residual).all(|x| x.is_finite()));
            true
        }
        Ok(None) | Err(_) => false,
    }
}

#[test]
fn damaged_selections() {
    // The payload of this rank is a sound one of the other, too.
    let comm = Scripted { scatter: Vec::new(), gather: Vec::new(), sent: Mutex::default() };
    let values = gradient(1, 0, SHAPE[0], SHAPE[1]);
    let input = Input { name: "w", n: SHAPE[0], m: SHAPE[1], level: 100, values: &values };
    let _ = TopK::new(true).reduce(&[input], &comm); // the scripted other sends nothing: an error
    let sound = comm.sent.into_inner().unwrap().remove(0);
    storm_of(&sound, 1, |bytes| taken(&mut TopK::new(true), 100, &[], bytes));
}

#[test]
fn damaged_codes() {
    // Of 1200 numbers in three buckets, rank 0 owns the first and rank 1 two: 512 numbers are scattered here, and 688
    // gathered from there.
    let mut payloads = [512, 688].map(|len| {
        let mut bytes = Vec::new();
        let values = gradient(1, 0, 1, len);
        let rounding = trimtab_exchange::quantizer::Rounding::Nearest;
        trimtab_exchange::quantizer::encode(&values, 3, rounding, &mut bytes).unwrap();
        bytes
    });
    let [scatter, gather] = &mut payloads;
    let compressor = RefCell::new(Qsgd::new(0, RoundingMode::Nearest, true));
    storm_of(scatter, 2, |bytes| taken(&mut *compressor.borrow_mut(), 3, bytes, gather));
    storm_of(gather, 3, |bytes| taken(&mut *compressor.borrow_mut(), 3, scatter, bytes));
}
