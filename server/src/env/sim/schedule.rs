//! When operations fail.

use std::{io, path::Path};

use super::fault::{Failure, Fault, Operation, Predicate};

/// Counts operations, and knows which of them meet a crash or a fault.
#[derive(Default)]
pub struct Schedule {
    operations: u64,
    crash_at: Option<u64>,
    crash_when: Option<Predicate>,
    crashed: bool,
    crashed_in: Option<Operation>,
    faults: Vec<Fault>,
}

impl Schedule {
    /// Counts an operation, and says whether and how it fails.
    pub fn begin(&mut self, path: &Path, operation: Operation) -> Result<(), Failure> {
        if self.crashed {
            return Err(Failure::Crashed);
        }
        if operation.is_change() {
            self.operations += 1;
            let is_meant = self
                .crash_when
                .as_ref()
                .is_some_and(|when| when(path, operation));
            if is_meant || self.crash_at.is_some_and(|n| n <= self.operations) {
                self.crashed = true;
                self.crashed_in = Some(operation);
                return Err(Failure::CrashPoint);
            }
        }
        self.strike(path, operation)
    }

    /// Says whether and how an operation on a file without a name fails. It is not counted: no crash finds what
    /// it does.
    pub fn begin_scratch(&mut self, path: &Path, operation: Operation) -> Result<(), Failure> {
        if self.crashed {
            Err(Failure::Crashed)
        } else {
            self.strike(path, operation)
        }
    }

    fn strike(&mut self, path: &Path, operation: Operation) -> Result<(), Failure> {
        let n = self.operations;
        let mut faults = self.faults.iter_mut();
        match faults.find_map(|fault| fault.strikes(path, operation, n)) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    pub fn expect_power(&self) -> io::Result<()> {
        if self.crashed {
            Err(Failure::Crashed.into())
        } else {
            Ok(())
        }
    }

    pub fn operations(&self) -> u64 {
        self.operations
    }

    pub fn crash_at(&mut self, n: u64) {
        self.crash_at = Some(n);
    }

    pub fn crash_when(&mut self, when: Predicate) {
        self.crash_when = Some(when);
    }

    pub fn crash(&mut self) {
        self.crashed = true;
    }

    pub fn has_crashed(&self) -> bool {
        self.crashed
    }

    pub fn crashed_in(&self) -> Option<Operation> {
        self.crashed_in
    }

    pub fn fail(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub fn heal(&mut self) {
        self.faults.clear();
    }
}
