//! The bytes of a file, of which most may be zero.

use std::{collections::BTreeMap, fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

const PAGE: usize = 4096;

/// A page that is not there is zero, as is everything beyond the length. Clones share their pages.
#[derive(Clone, Default)]
pub struct Content {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Content {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer`; returns how much of it lies before the end. The rest is zero.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        for (number, within, part) in pages_of(offset, buffer.len()) {
            match self.pages.get(&number) {
                Some(page) => buffer[part].copy_from_slice(&page[within]),
                None => buffer[part].fill(0),
            }
        }
        let rest = self.len.saturating_sub(offset);
        buffer
            .len()
            .min(usize::try_from(rest).unwrap_or(usize::MAX))
    }

    /// Replaces bytes and leaves the length. Those that stay beyond it have to be zero.
    pub fn put(&mut self, bytes: &[u8], offset: u64) {
        for (number, within, part) in pages_of(offset, bytes.len()) {
            let bytes = &bytes[part];
            // An explicit zero takes no more memory than a hole.
            if !self.pages.contains_key(&number) && bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let page = self
                .pages
                .entry(number)
                .or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within].copy_from_slice(bytes);
        }
    }

    pub fn extend_to(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE as u64));
            if let Some(page) = self.pages.get_mut(&(len / PAGE as u64)) {
                Arc::make_mut(page)[(len % PAGE as u64) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    pub fn copy_to(&self, file: &File) -> io::Result<()> {
        for (number, page) in &self.pages {
            file.write_all_at(&page[..], number * PAGE as u64)?;
        }
        file.set_len(self.len)
    }
}

/// The pages that so many bytes at `offset` touch: the number of each, the part of the page, and the
/// part of the bytes.
fn pages_of(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = (at % PAGE as u64) as usize;
        let count = (PAGE - start).min(bytes - done);
        let part = done..done + count;
        done = part.end;
        (count > 0).then_some((at / PAGE as u64, start..start + count, part))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_a_vector_of_bytes_would_be(
            changes in prop::collection::vec((0..3_u8, 0..20_000_usize, 0..9_000_usize, 0..3_u8), 1..12)
        ) {
            let (mut content, mut model) = (Content::default(), Vec::new());
            for (kind, at, count, byte) in changes {
                if kind == 0 {
                    content.set_len(at as u64);
                    model.resize(at, 0);
                } else {
                    let end = at + count;
                    content.put(&vec![byte; count], at as u64);
                    content.extend_to(end as u64);
                    model.resize(model.len().max(end), 0);
                    model[at..end].fill(byte);
                }
                let mut whole = vec![9; model.len() + 10];
                prop_assert_eq!(content.read(&mut whole, 0), model.len());
                prop_assert!(whole[..model.len()] == model[..]);
                prop_assert!(whole[model.len()..].iter().all(|byte| *byte == 0));
            }
        }
    }
}
