//! The file descriptors of the process, and what each part of the vat may have of them.

/// The shares of a process's file descriptors: half for objects' files, three eighths for connections. The
/// last eighth is for what is neither: the journal, logs of objects that have become long, requests that a
/// class makes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// How many files the process may have open.
    pub all: usize,
    /// How many files of databases may be open.
    pub databases: usize,
    /// How many connections may be open, of all kinds together.
    pub connections: usize,
}

impl Descriptors {
    /// Raises the limit of this process as far as it goes, and shares what there is.
    pub fn raise() -> Descriptors {
        let all = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
        Descriptors::of(usize::try_from(all).unwrap_or(usize::MAX))
    }

    fn of(all: usize) -> Descriptors {
        Descriptors {
            all,
            databases: all / 2,
            connections: all / 8 * 3,
        }
    }

    /// Logs that fewer connections than the settings say may be open, if it is so.
    pub fn tell(self, limits_connections: usize, http_connections: usize) {
        let asked = limits_connections.saturating_add(http_connections);
        if asked > self.connections {
            tracing::info!(
                connections = self.connections,
                open_files = self.all,
                "fewer connections than `limits.connections` and `connections` in the section `[http]` say \
                 may be open together: three eighths of the limit of open files (ulimit -n, LimitNOFILE=)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_to_objects_and_to_the_vat() {
        for all in [64, 256, 1024, 20_000, 1 << 20, usize::MAX] {
            let shares = Descriptors::of(all);
            assert!(shares.connections >= 24);
            let left = shares.all - shares.databases - shares.connections;
            assert!(left >= 8 && left >= all / 8, "{shares:?}");
        }
    }
}
