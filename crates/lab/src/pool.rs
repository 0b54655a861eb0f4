//! Several pieces of work at a time, until they are done or Ctrl-C ends it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use crate::machine;

/// As many pieces at a time as there are processors.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Does `work` on each of `pieces`, `jobs` at a time, in their order; gives what comes of each to `take`, on the calling
/// thread, as it comes. After Ctrl-C nothing more is begun.
pub fn each<T: Send, R: Send>(
    pieces: impl IntoIterator<Item = T>,
    jobs: usize,
    work: impl Fn(T) -> R + Sync,
    mut take: impl FnMut(R),
) {
    let queue: Mutex<VecDeque<T>> = Mutex::new(pieces.into_iter().collect());
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let (sender, outcomes) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while let Some(piece) = next().filter(|_| !machine::interrupted()) {
                    let _ = sender.send(work(piece));
                }
            });
        }
        drop(sender);
        outcomes.into_iter().for_each(&mut take);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once() {
        for jobs in [0, 1, 3, 20] {
            let mut done = Vec::new();
            each(0..10, jobs, |n| n * n, |square| done.push(square));
            done.sort_unstable();
            assert_eq!(done, [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
        }
    }
}
