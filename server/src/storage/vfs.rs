//! SQLite's file system on the journal's databases: a database, with the pages of it that are not in its
//! file, and files without a name. See <https://www.sqlite.org/c3ref/vfs.html>.
//!
//! SQLite keeps a rollback journal, so that it can undo what it has written: of one transaction, in
//! memory while that is small. It writes pages to the database when it commits, or when its cache is
//! full, and says when it has committed: `SQLITE_FCNTL_COMMIT_PHASETWO`.
//!
//! SQLite is told the name of a [`DatabaseId`] and not a path. It locks nothing: a database has one
//! connection, and other processes are kept away by the lock of the data folder and of the file.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    io, mem, ptr,
    rc::Rc,
    slice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rusqlite::{Connection, ffi};

use super::{codes::DISK_FULL, configure_process};
use crate::{
    folder::DatabaseId,
    journal::{Database, Journal, PAGE_BYTES, Scratch},
};

/// The file system of one vat, registered with SQLite until it is dropped.
pub struct Vfs {
    pub(super) name: CString,
    pub(super) journal: Journal,
    /// Made by `Box`, and given back in `drop`.
    raw: *mut ffi::sqlite3_vfs,
}

impl Vfs {
    /// Registers a file system for the databases of `journal`.
    pub fn register(journal: Journal) -> Rc<Vfs> {
        configure_process();
        // SQLite tells file systems apart by their names.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!("vatwerk-{number}")).expect("there is no zero in it");
        // SAFETY: asking for the default file system initializes SQLite and has no other conditions.
        let base = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        let shared = Box::new(Shared {
            journal: journal.clone(),
            base,
        });
        let raw = Box::into_raw(Box::new(ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<File>() as c_int,
            mxPathname: 256,
            pNext: ptr::null_mut(),
            zName: name.as_ptr(),
            pAppData: Box::into_raw(shared).cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: Some(current_time_ms),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: `raw` and what it points to live until it is unregistered. It does not become the
        // default. It cannot fail but for want of memory in initializing SQLite, and then no database
        // opens.
        unsafe { ffi::sqlite3_vfs_register(raw, 0) };
        Rc::new(Vfs { name, journal, raw })
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}

impl Drop for Vfs {
    fn drop(&mut self) {
        // SAFETY: every connection that uses it holds an `Rc` of it, so there is none. Both boxes
        // were made in `register`, and nobody else frees them.
        unsafe {
            ffi::sqlite3_vfs_unregister(self.raw);
            let raw = Box::from_raw(self.raw);
            drop(Box::from_raw(raw.pAppData.cast::<Shared>()));
        }
    }
}

/// Has `database` told when `connection`, which must be one to it, has rolled a transaction back.
/// SQLite has then written what was there before.
pub(super) fn follow_rollbacks(connection: &Connection, database: &Arc<Database>) {
    // Not by `Connection::rollback_hook`: it frees what the hook needs before SQLite, as it closes the
    // connection, rolls back what is open.
    unsafe extern "C" fn rolled_back(database: *mut c_void) {
        // SAFETY: the file of the connection, a `Kind::Main`, keeps it alive until after the last
        // rollback. What is done to it is done behind its lock.
        unsafe { &*database.cast::<Database>() }.sqlite_rolled_back();
    }
    let database = Arc::as_ptr(database).cast_mut().cast();
    // SAFETY: the connection is open, and `database` is what the hook takes.
    unsafe { ffi::sqlite3_rollback_hook(connection.handle(), Some(rolled_back), database) };
}

/// What the functions of a file system share.
struct Shared {
    journal: Journal,
    /// SQLite's own, for the time and for randomness.
    base: *mut ffi::sqlite3_vfs,
}

/// A file as SQLite sees it.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    journal: mem::ManuallyDrop<Journal>,
    kind: mem::ManuallyDrop<Kind>,
}

enum Kind {
    Main(Arc<Database>),
    Scratch(Scratch),
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(lock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: None,
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

impl Kind {
    fn read(&self, journal: &Journal, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Kind::Main(database) => {
                let read = database.read(journal.databases(), buffer, offset)?;
                without_log(&mut buffer[..read], offset);
                Ok(read)
            }
            Kind::Scratch(scratch) => scratch.read(buffer, offset),
        }
    }

    fn write(&mut self, journal: &Journal, bytes: &[u8], offset: u64) -> io::Result<()> {
        let databases = journal.databases();
        match self {
            Kind::Main(database) => database.write(databases, bytes, offset),
            Kind::Scratch(scratch) => scratch.write(bytes, offset, || databases.scratch()),
        }
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        match self {
            Kind::Main(database) => database.truncate(bytes),
            Kind::Scratch(scratch) => scratch.truncate(bytes),
        }
    }

    fn bytes(&self, journal: &Journal) -> io::Result<u64> {
        match self {
            Kind::Main(database) => {
                let pages = database.pages(journal.databases())?;
                Ok(u64::from(pages) * PAGE_BYTES as u64)
            }
            Kind::Scratch(scratch) => scratch.bytes(),
        }
    }
}

/// Databases of format 3 and before say that they have a write-ahead log. SQLite is told that they have
/// none, and writes that when it writes their first page. `read`: what there is at `offset`.
fn without_log(read: &mut [u8], offset: u64) {
    /// Where the versions are that are needed to write and to read a database.
    const VERSIONS: [u64; 2] = [18, 19];
    for version in VERSIONS {
        let at = version
            .checked_sub(offset)
            .and_then(|at| read.get_mut(at as usize));
        if let Some(version) = at.filter(|version| **version == 2) {
            *version = 1;
        }
    }
}

/// What SQLite is told of an error.
fn code(error: &io::Error, otherwise: c_int) -> c_int {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DISK_FULL,
        _ => otherwise,
    }
}

/// The database that a name is of.
///
/// # Safety
///
/// `name` is null or a string that ends with a zero.
unsafe fn parse_name(name: *const c_char) -> Option<DatabaseId> {
    if name.is_null() {
        return None;
    }
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(name) }.to_str().ok()?.parse().ok()
}

/// # Safety
///
/// `vfs` was made by [`Vfs::register`] and is not dropped meanwhile.
unsafe fn shared<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Shared {
    // SAFETY: promised by the caller.
    unsafe { &*(*vfs).pAppData.cast::<Shared>() }
}

/// # Safety
///
/// `file` was opened by [`open`] and not closed, and nobody else uses it: it belongs to a connection,
/// which one thread uses at a time.
unsafe fn file<'a>(file: *mut ffi::sqlite3_file) -> &'a mut File {
    // SAFETY: promised by the caller; `szOsFile` makes SQLite allocate a `File`.
    unsafe { &mut *file.cast::<File>() }
}

// SQLite calls all that follows, with what the registered file system and `METHODS` promise it. A
// panic in one of them ends the process, as it must: SQLite cannot be unwound.

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    out: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes the file system it was given, a name that is null or ends with a zero,
    // room for a `File`, and a pointer that may be null.
    unsafe {
        // Says that it is not open, should it stay so.
        (*out).pMethods = ptr::null();
        let shared = shared(vfs);
        let kind = if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            parse_name(name)
                .and_then(|id| shared.journal.databases().find(id))
                .map(Kind::Main)
        } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
            // No database has one.
            None
        } else {
            Some(Kind::Scratch(Scratch::default()))
        };
        let Some(kind) = kind else {
            return ffi::SQLITE_CANTOPEN;
        };
        out.cast::<File>().write(File {
            base: ffi::sqlite3_file { pMethods: &METHODS },
            journal: mem::ManuallyDrop::new(shared.journal.clone()),
            kind: mem::ManuallyDrop::new(kind),
        });
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(raw: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once, and does not use it afterwards.
    unsafe {
        let file = file(raw);
        mem::ManuallyDrop::drop(&mut file.kind);
        mem::ManuallyDrop::drop(&mut file.journal);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    raw: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes an open file and a buffer of that size.
    let (file, buffer) = unsafe {
        (
            file(raw),
            slice::from_raw_parts_mut(buffer.cast::<u8>(), amount as usize),
        )
    };
    match file.kind.read(&file.journal, buffer, offset as u64) {
        Ok(read) if read == buffer.len() => ffi::SQLITE_OK,
        Ok(read) => {
            buffer[read..].fill(0);
            ffi::SQLITE_IOERR_SHORT_READ
        }
        Err(error) => code(&error, ffi::SQLITE_IOERR_READ),
    }
}

unsafe extern "C" fn write(
    raw: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes an open file and that many bytes.
    let (file, bytes) = unsafe {
        (
            file(raw),
            slice::from_raw_parts(bytes.cast::<u8>(), amount as usize),
        )
    };
    let File { journal, kind, .. } = file;
    answer(
        kind.write(journal, bytes, offset as u64),
        ffi::SQLITE_IOERR_WRITE,
    )
}

unsafe extern "C" fn truncate(raw: *mut ffi::sqlite3_file, bytes: ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes an open file.
    let file = unsafe { file(raw) };
    answer(file.kind.truncate(bytes as u64), ffi::SQLITE_IOERR_TRUNCATE)
}

/// The journal is what is synced.
unsafe extern "C" fn sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(
    raw: *mut ffi::sqlite3_file,
    bytes: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes an open file and room for the answer.
    let (file, answer_to) = unsafe { (file(raw), &mut *bytes) };
    let size = file
        .kind
        .bytes(&file.journal)
        .map(|bytes| *answer_to = bytes as i64);
    answer(size, ffi::SQLITE_IOERR_FSTAT)
}

fn answer(done: io::Result<()>, otherwise: c_int) -> c_int {
    match done {
        Ok(()) => ffi::SQLITE_OK,
        Err(error) => code(&error, otherwise),
    }
}

unsafe extern "C" fn lock(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut ffi::sqlite3_file, held: *mut c_int) -> c_int {
    // SAFETY: SQLite passes room for the answer.
    unsafe { *held = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(
    raw: *mut ffi::sqlite3_file,
    operation: c_int,
    _: *mut c_void,
) -> c_int {
    // SAFETY: SQLite passes an open file.
    let file = unsafe { file(raw) };
    if operation == ffi::SQLITE_FCNTL_COMMIT_PHASETWO
        && let Kind::Main(database) = &*file.kind
    {
        // The pages are written, and what could undo that is gone.
        database.sqlite_committed();
        return ffi::SQLITE_OK;
    }
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    // So that SQLite neither pads nor counts what it needs to undo a transaction.
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE | ffi::SQLITE_IOCAP_SAFE_APPEND
}

/// A rollback journal, which is gone when it is closed.
unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _: c_int,
    answer: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes the file system it was given, a name that ends with a zero, and room for
    // the answer.
    unsafe {
        let found = parse_name(name).and_then(|id| shared(vfs).journal.databases().find(id));
        *answer = found.is_some().into();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a name that ends with a zero, and that much room.
    unsafe {
        let name = CStr::from_ptr(name).to_bytes_with_nul();
        if name.len() > room as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(
    vfs: *mut ffi::sqlite3_vfs,
    amount: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: what SQLite passes is passed on to its own file system.
    unsafe {
        let base = shared(vfs).base;
        (*base)
            .xRandomness
            .map_or(0, |randomness| randomness(base, amount, out))
    }
}

unsafe extern "C" fn sleep(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    // SAFETY: what SQLite passes is passed on to its own file system.
    unsafe {
        let base = shared(vfs).base;
        (*base).xSleep.map_or(0, |sleep| sleep(base, microseconds))
    }
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, days: *mut f64) -> c_int {
    // SAFETY: what SQLite passes is passed on to its own file system.
    unsafe {
        let base = shared(vfs).base;
        (*base)
            .xCurrentTime
            .map_or(ffi::SQLITE_ERROR, |time| time(base, days))
    }
}

unsafe extern "C" fn current_time_ms(
    vfs: *mut ffi::sqlite3_vfs,
    time: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: what SQLite passes is passed on to its own file system.
    unsafe {
        let base = shared(vfs).base;
        (*base)
            .xCurrentTimeInt64
            .map_or(ffi::SQLITE_ERROR, |now| now(base, time))
    }
}
