//! The input gate: sections, in which only the events that belong to them proceed.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Poll, Waker},
};

use super::instance::Instance;

/// Names one section of an instance.
#[derive(Clone)]
pub(super) struct SectionId(Rc<Node>);

struct Node {
    parent: Option<SectionId>,
    depth: usize,
    is_open: Cell<bool>,
}

impl SectionId {
    fn is(&self, other: &SectionId) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// The section itself, or, if it has ended, the innermost one around it that has not: what was in it
/// belongs there now.
fn still_open(section: Option<&SectionId>) -> Option<&SectionId> {
    let mut section = section;
    while let Some(id) = section
        && !id.0.is_open.get()
    {
        section = id.0.parent.as_ref();
    }
    section
}

/// The sections that are open, each in the one before. While there are any, only events of the
/// innermost proceed: others are not delivered, and running ones are not polled.
#[derive(Default)]
pub(super) struct Sections {
    open: RefCell<Vec<SectionId>>,
    held_back: RefCell<Vec<Waker>>,
}

impl Sections {
    /// Opens a section in the innermost that is open.
    pub fn open(&self) -> SectionId {
        let mut open = self.open.borrow_mut();
        let section = SectionId(Rc::new(Node {
            parent: open.last().cloned(),
            depth: open.len() + 1,
            is_open: Cell::new(true),
        }));
        open.push(section.clone());
        section
    }

    /// Ends a section. Those in it may go on for a while.
    pub fn close(&self, section: &SectionId) {
        section.0.is_open.set(false);
        self.open.borrow_mut().retain(|open| !open.is(section));
        self.held_back.take().into_iter().for_each(Waker::wake);
    }

    /// Whether an event of `section` may proceed.
    pub fn admits(&self, section: Option<&SectionId>) -> bool {
        match self.open.borrow().last() {
            None => true,
            Some(innermost) => still_open(section).is_some_and(|section| section.is(innermost)),
        }
    }

    /// How many sections an event of `section` is in.
    pub fn depth(&self, section: Option<&SectionId>) -> usize {
        still_open(section).map_or(0, |section| section.0.depth)
    }

    /// Wakes `waker` when a section ends.
    pub fn wait(&self, waker: &Waker) {
        let mut held_back = self.held_back.borrow_mut();
        if !held_back.iter().any(|held| held.will_wake(waker)) {
            held_back.push(waker.clone());
        }
    }

    /// Waits until an event of `section` may proceed.
    pub async fn admitted(&self, section: Option<&SectionId>) {
        std::future::poll_fn(|cx| {
            if self.admits(section) {
                return Poll::Ready(());
            }
            self.wait(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

/// While it lives, events that are not part of it wait.
pub(crate) struct Section {
    pub(super) id: SectionId,
    pub(super) instance: Rc<Instance>,
}

impl Drop for Section {
    fn drop(&mut self) {
        self.instance.sections.close(&self.id);
        self.instance.slot.stir();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_innermost_section_proceeds() {
        let sections = Sections::default();
        assert!(sections.admits(None));
        let outer = sections.open();
        assert!(!sections.admits(None) && sections.admits(Some(&outer)));
        let inner = sections.open();
        assert!(!sections.admits(Some(&outer)) && sections.admits(Some(&inner)));
        assert_eq!((sections.depth(None), sections.depth(Some(&inner))), (0, 2));
        sections.close(&inner);
        assert!(sections.admits(Some(&outer)) && !sections.admits(None));
        sections.close(&outer);
        assert!(sections.admits(None));
    }

    #[test]
    fn what_is_left_of_a_section_belongs_to_the_one_around_it() {
        let sections = Sections::default();
        let outer = sections.open();
        let inner = sections.open();
        sections.close(&inner);
        assert!(sections.admits(Some(&inner)));
        let other = sections.open();
        assert!(!sections.admits(Some(&inner)));
        sections.close(&other);
        // One may outlive the section that it is in.
        let inner = sections.open();
        sections.close(&outer);
        assert!(sections.admits(Some(&inner)) && !sections.admits(Some(&outer)));
        sections.close(&inner);
        let next = sections.open();
        assert!(!sections.admits(Some(&inner)) && sections.admits(Some(&next)));
    }
}
