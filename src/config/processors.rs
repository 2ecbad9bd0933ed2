//! Which processors the process may use, and how many workers run on them.
//!
//! Pinning a thread is not done here.

use std::fs;
use std::io;

use super::Cores;

/// Where the kernel writes the affinity mask of the process.
const STATUS_FILE: &str = "/proc/self/status";
/// Where it writes the processors that are there. A mask may name some that could only be added.
const ONLINE_FILE: &str = "/sys/devices/system/cpu/online";

/// The processors that the process may use are unknown.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorsError {
    /// The file is not there.
    #[error("cannot read {STATUS_FILE}: {0}; fastlb needs /proc to be mounted")]
    Unreadable(#[from] io::Error),
    /// The file does not say.
    #[error("{STATUS_FILE} names no processor in its line Cpus_allowed_list")]
    Unnamed,
}

impl Cores {
    /// As many workers as asked for, or one for each processor that the process may use.
    ///
    /// # Errors
    ///
    /// Where `/proc` does not say which processors these are.
    pub fn of_this_process(workers: Option<usize>) -> Result<Self, ProcessorsError> {
        let status = fs::read_to_string(STATUS_FILE)?;
        let allowed = allowed_in(&status).ok_or(ProcessorsError::Unnamed)?;
        let online = fs::read_to_string(ONLINE_FILE)
            .ok()
            .and_then(|list| parse_list(&list));
        Ok(Self::new(workers, usable(allowed, online.as_deref())))
    }

    /// Whether some workers have to share a processor.
    pub fn are_shared(&self) -> bool {
        self.workers > self.processors.len()
    }

    fn new(workers: Option<usize>, processors: Vec<usize>) -> Self {
        Self {
            workers: workers.unwrap_or(processors.len()).max(1),
            processors,
        }
    }
}

/// The processors of the line `Cpus_allowed_list` (proc_pid_status(5)).
fn allowed_in(status: &str) -> Option<Vec<usize>> {
    parse_list(
        status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?,
    )
}

/// Those allowed that are online. Containers may number the online ones anew, so where the two
/// have nothing in common the mask is believed alone.
fn usable(allowed: Vec<usize>, online: Option<&[usize]>) -> Vec<usize> {
    let Some(online) = online else { return allowed };
    let both: Vec<usize> = allowed
        .iter()
        .copied()
        .filter(|cpu| online.contains(cpu))
        .collect();
    if both.is_empty() { allowed } else { both }
}

/// Parses a list as `0-3,8,10-11`, at least one processor (cpuset(7), "List format").
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut processors = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last {
            return None;
        }
        processors.extend(first..=last);
    }
    Some(processors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(parse_list("0\n"), Some(vec![0]));
        assert_eq!(
            parse_list("\t0-3,8,10-11\n"),
            Some(vec![0, 1, 2, 3, 8, 10, 11])
        );
        for list in ["", "x", "3-1", "1,", "0-"] {
            assert_eq!(parse_list(list), None, "{list}");
        }
    }

    #[test]
    fn the_mask_is_one_line_of_the_status() {
        let status = "Name:\tfastlb\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\nMems_allowed:\t1\n";
        assert_eq!(allowed_in(status), Some(vec![0, 1]));
        assert_eq!(allowed_in("Name:\tfastlb\n"), None);
    }

    #[test]
    fn a_processor_that_could_be_added_is_not_used() {
        assert_eq!(usable(vec![0, 1, 2, 3], Some(&[0, 1])), [0, 1]);
        assert_eq!(usable(vec![6, 7], Some(&[0, 1])), [6, 7]);
        assert_eq!(usable(vec![6, 7], None), [6, 7]);
    }

    #[test]
    fn workers_default_to_one_each() {
        let cores = Cores::new(None, vec![2, 5]);
        assert_eq!((cores.workers, cores.are_shared()), (2, false));
        let cores = Cores::new(Some(8), vec![2, 5]);
        assert_eq!((cores.workers, cores.are_shared()), (8, true));
    }

    #[test]
    fn this_process_may_use_one_at_least() {
        assert!(Cores::of_this_process(None).unwrap().workers >= 1);
    }
}
