//! Unix sockets: whose they are, and their files.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixSocket, UnixStream};
use vatwerk::Address;

use super::BindError;

/// The longest path of a unix socket, in bytes: what the operating system has room for, with a zero behind it.
const PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// How many connections may wait to be taken. The operating system may allow fewer.
const BACKLOG: u32 = 1024;

/// Who may connect to unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The mode of the socket's file.
    pub mode: u32,
    /// The id of the group of the socket's file, if it is not that of the process.
    pub group: Option<u32>,
}

impl Default for Access {
    /// The vat's own user.
    fn default() -> Access {
        Access {
            mode: 0o600,
            group: None,
        }
    }
}

/// Listens at `path`. A stale socket in its place is replaced, a live one and other files are not. Nobody
/// connects before the file's mode and group are as `access` says.
pub(super) async fn bind(
    path: &Path,
    access: Access,
) -> Result<(UnixListener, SocketFile), BindError> {
    let bytes = path.as_os_str().as_bytes().len();
    if bytes > PATH_BYTES {
        return Err(BindError::LongPath {
            path: path.to_owned(),
            bytes,
            most: PATH_BYTES,
        });
    }
    clear(path).await?;
    let bind = || {
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        // From here on the file goes if anything fails.
        let file = SocketFile {
            path: path.to_owned(),
            inode: fs::symlink_metadata(path)?.ino(),
        };
        if access.group.is_some() {
            chown(path, None, access.group)?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(access.mode))?;
        // Until now connections were refused.
        Ok((socket.listen(BACKLOG)?, file))
    };
    bind().map_err(|source| BindError::Io {
        address: Address::Unix(path.to_owned()),
        source,
    })
}

/// Removes a socket at `path` that nobody listens at.
async fn clear(path: &Path) -> Result<(), BindError> {
    let io = |source| BindError::Io {
        address: Address::Unix(path.to_owned()),
        source,
    };
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(io)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Taken, or full: somebody is there.
        Ok(_) => Err(BindError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(BindError::Live(path.to_owned()))
        }
        Err(error) => Err(io(error)),
    }
}

/// Removes the file when the listener goes, unless another listener has taken its place.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // If it is gone already, all the better.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bound(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
        bind(path, Access::default()).await
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vat.sock");
        // The standard library leaves the file behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = bound(&path).await.unwrap();
        assert_eq!(mode(&path), 0o600);
        let second = bound(&path).await;
        assert!(matches!(second, Err(BindError::Live(_))));
        drop(live);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let third = bound(&path).await;
        assert!(matches!(third, Err(BindError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_socket_whose_backlog_is_full_is_live() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vat.sock");
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let _listener = socket.listen(1).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            waiting.push(stream);
        }
        let refused = bound(&path).await;
        assert!(matches!(refused, Err(BindError::Live(_))));
    }

    #[tokio::test]
    async fn a_path_may_be_as_long_as_the_system_allows() {
        let folder = tempfile::tempdir().unwrap();
        let room = PATH_BYTES - folder.path().as_os_str().len() - 1;
        for bytes in room - 20..=room {
            let path = folder.path().join("s".repeat(bytes));
            let _bound = bound(&path).await.unwrap();
            UnixStream::connect(&path).await.unwrap();
        }
        let refused = bound(&folder.path().join("s".repeat(room + 1))).await;
        let error = refused.err().unwrap().to_string();
        let told = format!("{} bytes long, and at most {PATH_BYTES}", PATH_BYTES + 1);
        assert!(error.contains(&told), "{error}");
    }

    #[tokio::test]
    async fn nothing_that_an_earlier_process_left_is_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vat.sock");
        // In a container every vat has the same process id.
        for id in [1, std::process::id()] {
            let left = folder.path().join(format!("vat.sock.{id}"));
            let _ = fs::create_dir(left);
        }
        let before = fs::read_dir(folder.path()).unwrap().count();
        drop(bound(&path).await.unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
    }

    #[tokio::test]
    async fn the_file_has_the_mode_and_the_group_that_it_is_to_have() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vat.sock");
        // A group that whoever runs the test may give files to.
        let group = fs::metadata(folder.path()).unwrap().gid();
        let access = Access {
            mode: 0o660,
            group: Some(group),
        };
        let _bound = bind(&path, access).await.unwrap();
        assert_eq!(mode(&path), 0o660);
        assert_eq!(fs::metadata(&path).unwrap().gid(), group);
    }

    #[tokio::test]
    async fn of_a_socket_that_cannot_be_given_its_group_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vat.sock");
        let access = Access {
            mode: 0o600,
            // No file may have it.
            group: Some(u32::MAX - 1),
        };
        // Root may.
        if let Err(error) = bind(&path, access).await {
            assert!(matches!(error, BindError::Io { .. }), "{error}");
        }
        assert!(!path.exists());
    }
}
