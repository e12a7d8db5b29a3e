//! Groups of threads: sums in order, sizes that vary, bytes, and ranks that leave.

use std::time::{Duration, Instant};

use trimtab_exchange::{Alone, Communicator, Error, Threads};

use crate::support::{normal, on_ranks};

#[test]
fn sums_have_the_same_bits_on_all_ranks_and_in_all_runs() {
    let run = || {
        on_ranks(5, |comm| {
            // Arrival in another order every time.
            std::thread::sleep(Duration::from_millis((comm.rank() * 7 % 5) as u64));
            let mut values = normal("sum", 0, comm.rank() as u64, 1001);
            comm.all_reduce_sum(&mut values).unwrap();
            values
        })
    };
    let sums = run();
    let mut expected = normal("sum", 0, 0, 1001);
    let mut backwards = normal("sum", 0, 4, 1001);
    for r in 1..5 {
        expected.iter_mut().zip(normal("sum", 0, r, 1001)).for_each(|(a, b)| *a += b);
        backwards.iter_mut().zip(normal("sum", 0, 4 - r, 1001)).for_each(|(a, b)| *a += b);
    }
    assert!(sums.iter().all(|s| *s == expected) && run() == sums);
    assert_ne!(expected, backwards, "the control: the order of summation shows in the bits");
}

#[test]
fn gathers_and_scatters_of_any_size() {
    let results = on_ranks(4, |comm| {
        let rank = comm.rank();
        let gathered = comm.all_gather(&vec![rank as u8; rank]).unwrap();
        let parts = (0..4).map(|to| vec![(10 * rank + to) as u8; to]).collect();
        let scattered = comm.all_to_all(parts).unwrap();
        let mut bytes = if rank == 0 { vec![7, 8, 9] } else { vec![1] };
        comm.broadcast(&mut bytes).unwrap();
        (gathered, scattered, bytes, comm.sent_bytes())
    });
    for (rank, (gathered, scattered, bytes, sent)) in results.into_iter().enumerate() {
        assert_eq!(gathered, [vec![], vec![1], vec![2, 2], vec![3, 3, 3]]);
        assert_eq!(scattered, (0..4).map(|from| vec![(10 * from + rank) as u8; rank]).collect::<Vec<_>>());
        assert_eq!(bytes, [7, 8, 9]);
        // Three copies of its own; parts 0 to 3 but its own; rank 0 three copies of three.
        assert_eq!(sent as usize, 3 * rank + (6 - rank) + if rank == 0 { 9 } else { 0 });
    }
}

#[test]
fn a_group_of_one_and_a_rank_alone_agree() {
    let threads = Threads::ranks(1).remove(0);
    for comm in [&threads as &dyn Communicator, &Alone] {
        let mut values = [1.5, -0.0];
        comm.all_reduce_sum(&mut values).unwrap();
        assert_eq!(values.map(f32::to_bits), [1.5f32, -0.0].map(f32::to_bits));
        assert_eq!(comm.all_gather(&[3]).unwrap(), [vec![3]]);
        assert_eq!(comm.all_to_all(vec![vec![4]]).unwrap(), [vec![4]]);
        assert!(comm.all_to_all(vec![]).is_err());
        assert_eq!((comm.rank(), comm.size(), comm.sent_bytes()), (0, 1, 0));
    }
}

#[test]
fn a_lost_rank_ends_all_others() {
    let start = Instant::now();
    let ranks: Vec<_> = Threads::ranks(4)
        .into_iter()
        .map(|comm| {
            std::thread::spawn(move || {
                comm.all_gather(&[0])?;
                if comm.rank() == 2 {
                    panic!("on purpose");
                }
                comm.all_reduce_sum(&mut [1.0])?;
                Ok::<_, Error>(())
            })
        })
        .collect();
    for (rank, handle) in ranks.into_iter().enumerate() {
        match handle.join() {
            Err(_) => assert_eq!(rank, 2),
            Ok(ended) => assert_eq!(ended, Err(Error::Lost { rank: 2 })),
        }
    }
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_rank_that_leaves_after_a_round_does_not_spoil_it() {
    for _ in 0..50 {
        let results = on_ranks(3, |comm| comm.all_gather(&[comm.rank() as u8]));
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

#[test]
fn different_calls_are_errors_that_name_the_rank() {
    let ended = on_ranks(2, |comm| match comm.rank() {
        0 => comm.all_reduce_sum(&mut [0.0; 3]),
        _ => comm.all_reduce_sum(&mut [0.0; 4]),
    });
    let message = ended[0].as_ref().unwrap_err().to_string();
    assert!(message.contains("rank 1 has all-reduce of 4 numbers, expected all-reduce of 3"), "{message}");
    let ended = on_ranks(2, |comm| match comm.rank() {
        0 => comm.all_reduce_sum(&mut [0.0; 3]),
        _ => comm.all_gather(&[]).map(drop),
    });
    assert!(ended.iter().all(|e| matches!(e, Err(Error::Mismatch { .. }))), "{ended:?}");
}
