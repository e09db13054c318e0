//! Pages of databases, without the zeros that most of a small database is.

/// How large the pages of every database are, in bytes: SQLite's default.
pub(crate) const PAGE_BYTES: usize = 4096;

/// One page, as it is in the database file.
pub(crate) type Page = [u8; PAGE_BYTES];

/// A page without its longest run of zeros.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    /// What is before the zeros.
    pub before: &'a [u8],
    /// What is behind them.
    pub after: &'a [u8],
}

impl<'a> Packed<'a> {
    pub fn new(page: &'a Page) -> Packed<'a> {
        let (hole, zeros) = longest_hole(page);
        Packed {
            before: &page[..hole],
            after: &page[hole + zeros..],
        }
    }

    /// How many zeros there are.
    pub fn zeros(&self) -> usize {
        PAGE_BYTES - self.before.len() - self.after.len()
    }

    /// The page.
    pub fn unpack(&self, page: &mut Page) {
        let behind = PAGE_BYTES - self.after.len();
        page[..self.before.len()].copy_from_slice(self.before);
        page[self.before.len()..behind].fill(0);
        page[behind..].copy_from_slice(self.after);
    }
}

/// Likewise, with bytes of its own.
#[derive(Default)]
pub(super) struct OwnedPacked {
    before: usize,
    bytes: Box<[u8]>,
}

impl From<Packed<'_>> for OwnedPacked {
    fn from(packed: Packed<'_>) -> OwnedPacked {
        OwnedPacked {
            before: packed.before.len(),
            bytes: [packed.before, packed.after].concat().into(),
        }
    }
}

impl OwnedPacked {
    pub fn as_packed(&self) -> Packed<'_> {
        let (before, after) = self.bytes.split_at(self.before);
        Packed { before, after }
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Where the longest run of zeros starts, and how long it is, looking at whole words.
fn longest_hole(page: &Page) -> (usize, usize) {
    const WORD: usize = 8;
    let (mut longest, mut start) = ((0, 0), None);
    let (words, _) = page.as_chunks::<WORD>();
    for (i, word) in words.iter().enumerate() {
        if u64::from_ne_bytes(*word) != 0 {
            start = None;
            continue;
        }
        let first = *start.get_or_insert(i);
        if i + 1 - first > longest.1 {
            longest = (first, i + 1 - first);
        }
    }
    (longest.0 * WORD, longest.1 * WORD)
}
