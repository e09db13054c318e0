//! The pages of one database that are not durably in its file: all that SQLite has written since.
//!
//! ```text
//! SQLite writes a page         pending      a rollback drops it
//! SQLite commits               committed    until the journal is given it, right afterwards
//! the journal takes it in      a version    of a commit: undecided, and then durable or void
//! a newer one is durable       gone         nobody reads it any more
//! the commit is void           gone         when the database is opened anew
//! the file has it, synced      gone         the file is read
//! ```
//! Reads look for the newest of these, and then in the file. A commit may have *replaced* the database: then
//! nothing that is older than it is read, nor is the file, until that has the commit, synced. Pages are kept without the zeros that most
//! of a small database is; those of a database with many are kept in a file without a name.

use std::{collections::BTreeMap, io, mem, sync::Arc};

use super::{
    lsn::Lsn,
    page::{OwnedPacked, PAGE_BYTES, Packed, Page},
    record::Size,
    scratch::IN_MEMORY,
};
use crate::env::DiskFile;

/// The pages of one database that are not durably in its file.
#[derive(Default)]
pub(super) struct Overlay {
    /// The pages of the transaction that SQLite has open.
    pending: Pages,
    /// The pages that SQLite has committed and the journal has not been given.
    committed: Pages,
    /// The pages that the journal was given: by their number, and of each the oldest first.
    versions: BTreeMap<(u32, Lsn), Image>,
    /// The commits that replaced the database and are not in the file, synced: the oldest first.
    replaced: Vec<Lsn>,
    /// The newest of these before which there is no version any more.
    forgotten: Lsn,
    store: Store,
    /// For tests: the pages of the open transaction that were written twice, as they were first.
    #[cfg(any(test, feature = "testing"))]
    stale: BTreeMap<u32, Box<Page>>,
}

/// Pages that belong to one transaction.
#[derive(Default)]
struct Pages {
    images: BTreeMap<u32, Image>,
    /// How many pages the database has, if the transaction has changed anything.
    database_pages: Option<u32>,
    /// Whether nothing of what was there before is in the database any more.
    replaces: bool,
}

/// Where the newest content of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// In the overlay.
    Here,
    /// In the file, if anywhere.
    InFile,
    /// Nowhere: the page has not been written since the database was replaced.
    Nowhere,
}

/// The content of a page.
enum Image {
    Memory(OwnedPacked),
    /// In the file of the store, at the place of this number.
    Spilled(u32),
}

impl Overlay {
    /// How many pages the database has, if SQLite has written what the journal was not given.
    pub fn database_pages(&self) -> Option<u32> {
        self.pending
            .database_pages
            .or(self.committed.database_pages)
    }

    /// Reads the newest image of a page, if it is here.
    pub fn read(&self, number: u32, page: &mut Page) -> io::Result<Found> {
        for pages in [&self.pending, &self.committed] {
            if let Some(image) = pages.images.get(&number) {
                return self.store.read(image, page).map(|()| Found::Here);
            }
            if pages.replaces {
                return Ok(Found::Nowhere);
            }
        }
        let base = self.replaced.last().copied();
        let since = (number, base.unwrap_or_default());
        let mut versions = self.versions.range(since..=(number, Lsn::MAX));
        match versions.next_back() {
            Some((_, image)) => self.store.read(image, page).map(|()| Found::Here),
            None if base.is_some() => Ok(Found::Nowhere),
            None => Ok(Found::InFile),
        }
    }

    /// Begins an empty database in place of what is there: the transaction that SQLite opens next writes all
    /// of it.
    pub fn replace(&mut self) {
        self.pending.clear(&mut self.store);
        self.pending.database_pages = Some(0);
        self.pending.replaces = true;
    }

    /// Takes a page that SQLite writes. `before`: how many pages the database had before.
    /// `scratch` makes a file, if one is needed.
    pub fn write(
        &mut self,
        number: u32,
        page: &Page,
        before: u32,
        scratch: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<()> {
        let Overlay { pending, store, .. } = self;
        pending.database_pages = Some(before.max(number));
        match pending.images.remove(&number) {
            Some(Image::Spilled(place)) => {
                pending.images.insert(number, Image::Spilled(place));
                return store.write(place, page);
            }
            // Should the next step fail, SQLite rolls back.
            old => old.iter().for_each(|old| store.let_go(old)),
        }
        pending.images.insert(number, store.keep(page, scratch)?);
        Ok(())
    }

    /// Cuts the database, or makes it longer, as SQLite says.
    pub fn truncate(&mut self, pages: u32) {
        self.pending.resize(pages, &mut self.store);
    }

    /// The transaction that SQLite had open is committed.
    pub fn commit(&mut self) {
        let Pages {
            images,
            database_pages,
            replaces,
        } = mem::take(&mut self.pending);
        if replaces {
            self.committed.clear(&mut self.store);
            self.committed.replaces = true;
        }
        if let Some(pages) = database_pages {
            self.committed.resize(pages, &mut self.store);
        }
        for (number, image) in images {
            if let Some(old) = self.committed.images.insert(number, image) {
                self.store.let_go(&old);
            }
        }
        #[cfg(any(test, feature = "testing"))]
        self.stale.clear();
    }

    /// The transaction that SQLite had open is rolled back.
    pub fn roll_back(&mut self) {
        #[cfg(any(test, feature = "testing"))]
        self.keep_stale();
        self.pending.clear(&mut self.store);
    }

    /// Forgets what the journal was not given.
    pub fn forget_unnumbered(&mut self) {
        self.pending.clear(&mut self.store);
        self.committed.clear(&mut self.store);
    }

    /// Whether SQLite has committed what the journal was not given.
    pub fn has_committed(&self) -> bool {
        self.committed.database_pages.is_some()
    }

    /// How many pages SQLite has committed that the journal was not given, and the database with them.
    pub fn committed(&self) -> (u64, Size) {
        let Pages {
            images,
            database_pages,
            replaces,
        } = &self.committed;
        let size = Size {
            pages: database_pages.unwrap_or_default(),
            replaces: *replaces,
        };
        (images.len() as u64, size)
    }

    /// Hands `take` each of these pages, in order.
    pub fn for_each_committed(
        &self,
        mut take: impl FnMut(u32, Packed<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut page = [0; PAGE_BYTES];
        for (number, image) in &self.committed.images {
            match image {
                Image::Memory(packed) => take(*number, packed.as_packed())?,
                Image::Spilled(_) => {
                    self.store.read(image, &mut page)?;
                    take(*number, Packed::new(&page))?;
                }
            }
        }
        Ok(())
    }

    /// The journal has been given what SQLite has committed, as the commit at `lsn`. What is older than
    /// a version that is not newer than `decided` is forgotten.
    pub fn number(&mut self, lsn: Lsn, decided: Lsn) {
        let committed = mem::take(&mut self.committed);
        self.forget_replaced(decided);
        if committed.replaces {
            self.replaced.push(lsn);
        }
        for (number, image) in committed.images {
            while let Some(oldest) = self.superseded(number, decided) {
                if let Some(old) = self.versions.remove(&(number, oldest)) {
                    self.store.let_go(&old);
                }
            }
            self.versions.insert((number, lsn), image);
        }
    }

    /// Hands `take` the pages of the commit at `lsn`, in order from `from` on, and at most `most` of them.
    /// Returns from where to go on; `None` if that were all.
    pub fn pages_of(
        &self,
        lsn: Lsn,
        from: u32,
        most: usize,
        mut take: impl FnMut(u32, &Page),
    ) -> io::Result<Option<u32>> {
        let mut page = [0; PAGE_BYTES];
        let versions = self.versions.range((from, Lsn(0))..);
        let mut pages = versions.filter(|((_, version), _)| *version == lsn);
        for ((number, _), image) in pages.by_ref().take(most) {
            self.store.read(image, &mut page)?;
            take(*number, &page);
        }
        Ok(pages.next().map(|((number, _), _)| *number))
    }

    /// The commit that was promised a position has this one.
    pub fn keep_promise(&mut self, promise: Lsn, lsn: Lsn) {
        let promised = self.versions.keys().filter(|(_, it)| *it == promise);
        let numbers: Vec<_> = promised.map(|(number, _)| *number).collect();
        for number in numbers {
            if let Some(image) = self.versions.remove(&(number, promise)) {
                self.versions.insert((number, lsn), image);
            }
        }
        let promised = self.replaced.iter_mut().filter(|it| **it == promise);
        promised.for_each(|it| *it = lsn);
    }

    /// Forgets every version that is older than a commit that replaced the database, and is decided.
    fn forget_replaced(&mut self, decided: Lsn) {
        let base = self.replaced.iter().rfind(|base| **base <= decided);
        if let Some(base) = base.copied().filter(|base| *base > self.forgotten) {
            self.forgotten = base;
            self.keep_versions(|version| version >= base);
        }
    }

    /// The oldest version of a page, if another one is not newer than `decided` either.
    fn superseded(&self, number: u32, decided: Lsn) -> Option<Lsn> {
        let mut decided = self.versions.range((number, Lsn(0))..=(number, decided));
        let ((_, oldest), _) = decided.next()?;
        decided.next().map(|_| *oldest)
    }

    /// Forgets every version after the commit at `lsn`.
    pub fn forget_after(&mut self, lsn: Lsn) {
        self.keep_versions(|version| version <= lsn);
    }

    /// Forgets every version up to the commit at `lsn`.
    pub fn forget_up_to(&mut self, lsn: Lsn) {
        self.keep_versions(|version| version > lsn);
    }

    fn keep_versions(&mut self, keep: impl Fn(Lsn) -> bool) {
        let Overlay {
            versions, store, ..
        } = self;
        versions.retain(|(_, lsn), image| {
            let kept = keep(*lsn);
            if !kept {
                store.let_go(image);
            }
            kept
        });
        self.replaced.retain(|lsn| keep(*lsn));
    }

    /// For tests: SQLite writes a page for the second time in a transaction.
    #[cfg(any(test, feature = "testing"))]
    pub fn note_stale(&mut self, number: u32) -> io::Result<()> {
        let mut page = Box::new([0; PAGE_BYTES]);
        if let Some(image) = self.pending.images.get(&number) {
            self.store.read(image, &mut page)?;
            self.stale.entry(number).or_insert(page);
        }
        Ok(())
    }

    /// For tests: what was noted survives a rollback.
    #[cfg(any(test, feature = "testing"))]
    fn keep_stale(&mut self) {
        for (number, page) in mem::take(&mut self.stale) {
            let packed = OwnedPacked::from(Packed::new(&page));
            self.store.in_memory += packed.len();
            let image = Image::Memory(packed);
            if let Some(old) = self.committed.images.insert(number, image) {
                self.store.let_go(&old);
            }
        }
    }

    /// For tests: of many pages that are committed one gets lost.
    #[cfg(any(test, feature = "testing"))]
    pub fn omit_one_of_many(&mut self) {
        if self.committed.images.len() > 8 {
            let omitted = self.committed.images.pop_last();
            omitted
                .iter()
                .for_each(|(_, image)| self.store.let_go(image));
        }
    }
}

impl Pages {
    fn resize(&mut self, pages: u32, store: &mut Store) {
        self.database_pages = Some(pages);
        while let Some(last) = self.images.last_entry().filter(|last| *last.key() > pages) {
            store.let_go(&last.remove());
        }
    }

    fn clear(&mut self, store: &mut Store) {
        let Pages { images, .. } = mem::take(self);
        images.values().for_each(|image| store.let_go(image));
    }
}

/// Where the content of pages is: in memory, and from some size on in a file without a name.
#[derive(Default)]
struct Store {
    /// How many bytes are in memory.
    in_memory: usize,
    file: Option<Arc<dyn DiskFile>>,
    /// How many places for a page the file has.
    places: u32,
    /// The places that are free.
    free: Vec<u32>,
}

impl Store {
    fn keep(
        &mut self,
        page: &Page,
        scratch: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<Image> {
        let packed = Packed::new(page);
        let bytes = PAGE_BYTES - packed.zeros();
        if self.in_memory + bytes <= IN_MEMORY {
            self.in_memory += bytes;
            return Ok(Image::Memory(packed.into()));
        }
        if self.file.is_none() {
            self.file = Some(scratch()?);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.places += 1;
            self.places - 1
        });
        let image = Image::Spilled(place);
        self.write(place, page)
            .inspect_err(|_| self.let_go(&image))?;
        Ok(image)
    }

    fn write(&self, place: u32, page: &Page) -> io::Result<()> {
        self.file()?.write_at(page, at(place))
    }

    fn read(&self, image: &Image, page: &mut Page) -> io::Result<()> {
        match image {
            Image::Memory(packed) => packed.as_packed().unpack(page),
            Image::Spilled(place) => {
                if self.file()?.read_at(page, at(*place))? < PAGE_BYTES {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(())
    }

    fn file(&self) -> io::Result<&Arc<dyn DiskFile>> {
        self.file
            .as_ref()
            .ok_or_else(|| io::Error::other("the file of a page in an overlay is gone"))
    }

    fn let_go(&mut self, image: &Image) {
        match image {
            Image::Memory(packed) => self.in_memory -= packed.len(),
            Image::Spilled(place) => {
                self.free.push(*place);
                if self.free.len() == self.places as usize {
                    (self.file, self.places, self.free) = (None, 0, Vec::new());
                }
            }
        }
    }
}

fn at(place: u32) -> u64 {
    u64::from(place) * PAGE_BYTES as u64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::env::{Disk, sim::SimDisk};

    fn page(byte: u8) -> Page {
        [byte; PAGE_BYTES]
    }

    struct Case {
        overlay: Overlay,
        disk: SimDisk,
    }

    impl Case {
        fn new() -> Case {
            Case {
                overlay: Overlay::default(),
                disk: SimDisk::new("/journal"),
            }
        }

        fn write(&mut self, number: u32, byte: u8) {
            let before = self.overlay.database_pages().unwrap_or(1);
            let scratch = || self.disk.scratch(Path::new("/journal"));
            let written = self.overlay.write(number, &page(byte), before, scratch);
            written.unwrap();
        }

        /// What a page has everywhere, if it is there.
        fn read(&self, number: u32) -> Option<u8> {
            let mut page = [0; PAGE_BYTES];
            let found = self.overlay.read(number, &mut page).unwrap();
            assert!(page.iter().all(|byte| *byte == page[0]));
            (found == Found::Here).then_some(page[0])
        }

        /// Whether the file is looked at for a page that is not here.
        fn needs_file(&self) -> bool {
            self.overlay.read(9, &mut [0; PAGE_BYTES]).unwrap() == Found::InFile
        }

        fn commit(&mut self, lsn: u64, decided: u64) {
            self.overlay.commit();
            self.overlay.number(Lsn(lsn), Lsn(decided));
        }
    }

    #[test]
    fn a_page_is_read_as_it_was_written_last_and_as_before_after_a_rollback() {
        let mut case = Case::new();
        case.write(3, 1);
        case.commit(5, 4);
        case.write(3, 2);
        assert_eq!((case.read(3), case.read(2)), (Some(2), None));
        case.overlay.roll_back();
        assert_eq!(case.read(3), Some(1));
        case.write(3, 3);
        case.overlay.commit();
        case.overlay.roll_back();
        assert_eq!(case.read(3), Some(3), "a rollback undoes no commit");
        case.overlay.forget_unnumbered();
        assert_eq!(case.read(3), Some(1));
    }

    #[test]
    fn versions_stay_until_newer_ones_are_decided() {
        let mut case = Case::new();
        for (lsn, decided) in [(5, 4), (6, 4), (7, 5), (8, 5)] {
            case.write(3, lsn);
            case.commit(lsn.into(), decided);
        }
        let lsns = |case: &Case| case.overlay.versions.keys().map(|(_, lsn)| lsn.0).collect();
        let kept: Vec<u64> = lsns(&case);
        assert_eq!(kept, [5, 6, 7, 8]);
        case.write(3, 9);
        case.commit(9, 7);
        let kept: Vec<u64> = lsns(&case);
        assert_eq!(kept, [7, 8, 9], "any of these may be the newest");
        case.overlay.forget_after(Lsn(7));
        assert_eq!(case.read(3), Some(7));
        case.overlay.forget_up_to(Lsn(7));
        assert_eq!((case.read(3), case.overlay.store.in_memory), (None, 0));
    }

    #[test]
    fn what_is_cut_off_is_in_no_commit() {
        let mut case = Case::new();
        for number in 1..=6 {
            case.write(number, 1);
        }
        case.overlay.commit();
        case.overlay.truncate(4);
        assert_eq!(case.overlay.database_pages(), Some(4));
        case.overlay.commit();
        let size = Size {
            pages: 4,
            replaces: false,
        };
        assert_eq!(case.overlay.committed(), (4, size));
        case.overlay.truncate(2);
        case.overlay.roll_back();
        assert_eq!(case.overlay.committed(), (4, size));
    }

    #[test]
    fn what_was_there_before_a_database_was_replaced_is_read_only_if_that_did_not_happen() {
        let mut case = Case::new();
        case.write(3, 1);
        case.commit(5, 4);
        case.overlay.replace();
        case.write(2, 2);
        assert_eq!((case.read(3), case.read(2)), (None, Some(2)));
        assert!(!case.needs_file());
        case.overlay.roll_back();
        assert_eq!((case.read(3), case.needs_file()), (Some(1), true));
        case.overlay.replace();
        case.write(2, 2);
        case.overlay.commit();
        assert_eq!((case.read(3), case.needs_file()), (None, false));
        assert!(case.overlay.committed().1.replaces);
        case.overlay.number(Lsn(6), Lsn(5));
        assert_eq!((case.read(3), case.needs_file()), (None, false));
        case.overlay.forget_after(Lsn(5));
        assert_eq!((case.read(3), case.needs_file()), (Some(1), true));
        case.overlay.replace();
        case.write(2, 2);
        case.commit(6, 5);
        case.write(4, 3);
        case.commit(7, 6);
        let kept: Vec<u64> = case.overlay.versions.keys().map(|(_, lsn)| lsn.0).collect();
        assert_eq!(kept, [6, 7], "nobody reads what is older");
        case.overlay.forget_up_to(Lsn(5));
        assert!(!case.needs_file(), "the file has it not yet");
        case.overlay.forget_up_to(Lsn(6));
        assert_eq!((case.read(4), case.needs_file()), (Some(3), true));
    }

    #[test]
    fn many_pages_go_to_a_file_and_are_read_back_until_it_is_gone() {
        let mut case = Case::new();
        let many = 2 * (IN_MEMORY / PAGE_BYTES) as u32;
        for round in 1..3 {
            for number in 1..=many {
                case.write(number, round);
            }
        }
        let Store {
            places, in_memory, ..
        } = case.overlay.store;
        assert_eq!(u64::from(places), u64::from(many) / 2, "no page has two");
        assert!(in_memory <= IN_MEMORY);
        case.overlay.commit();
        let mut next = 1;
        let each = |number, packed: Packed<'_>| {
            let mut unpacked = [0; PAGE_BYTES];
            packed.unpack(&mut unpacked);
            assert_eq!((number, unpacked[0]), (next, 2));
            next += 1;
            Ok(())
        };
        case.overlay.for_each_committed(each).unwrap();
        case.overlay.number(Lsn(1), Lsn(0));
        case.write(many, 3);
        case.overlay.roll_back();
        assert!((1..=many).all(|number| case.read(number) == Some(2)));
        case.overlay.forget_up_to(Lsn(1));
        assert!(case.overlay.store.file.is_none());
        assert_eq!(case.overlay.store.in_memory, 0);
    }
}
