//! The file of a database that has no content yet. Nobody writes it: an object that comes into being
//! needs no file before its first commits leave the journal.

use super::page::{PAGE_BYTES, Page};

/// The only page of an empty database, as SQLite would make it.
/// See <https://www.sqlite.org/fileformat2.html#the_database_header>.
pub(super) const PAGE: Page = {
    let mut page = [0; PAGE_BYTES];
    let magic = b"SQLite format 3\0";
    let mut i = 0;
    while i < magic.len() {
        page[i] = magic[i];
        i += 1;
    }
    let size = (PAGE_BYTES as u16).to_be_bytes();
    (page[16], page[17]) = (size[0], size[1]);
    // Written and read without a write-ahead log.
    (page[18], page[19]) = (1, 1);
    // Payload fractions, which are fixed.
    (page[21], page[22], page[23]) = (64, 32, 32);
    // One page.
    page[31] = 1;
    // Incremental vacuum: the largest root of a tree, and that free pages stay until they are given back.
    (page[55], page[67]) = (1, 1);
    // Below the header of 100 bytes, the root of the schema: a leaf of a table, without cells, whose
    // content starts at the end.
    page[100] = 13;
    (page[105], page[106]) = (size[0], size[1]);
    page
};
