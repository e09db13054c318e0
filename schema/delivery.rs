//! Whether a call that failed has run, as an error's text says.

use crate::limit_capnp as limit;

/// Whether a call that failed has run. Errors of the kinds `disconnected` and `overloaded` end with it, in
/// brackets, and so do others where the call has not run; see `schema/vatwerk/limit.capnp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// The call has not run, and will not: repeating it does no harm.
    NotDelivered,
    /// The call has run, and this is its outcome.
    Delivered,
    /// The call was under way when its object or connection was lost: it may have run in part, or whole.
    Unknown,
}

impl Delivery {
    /// Every outcome, in the order of the schema.
    pub const ALL: [Delivery; 3] = [
        Delivery::NotDelivered,
        Delivery::Delivered,
        Delivery::Unknown,
    ];

    /// The word on the wire, such as `not-delivered`.
    pub fn as_str(self) -> &'static str {
        match self {
            Delivery::NotDelivered => limit::NOT_DELIVERED,
            Delivery::Delivered => limit::DELIVERED,
            Delivery::Unknown => limit::DELIVERY_UNKNOWN,
        }
    }

    /// Splits an exception's text into the words before the mark, and the mark, if there is one.
    ///
    /// ```
    /// use vatwerk::Delivery;
    /// let (text, delivery) = Delivery::split("overloaded: the queue is full [not-delivered]");
    /// assert_eq!(text, "overloaded: the queue is full");
    /// assert_eq!(delivery, Some(Delivery::NotDelivered));
    /// ```
    pub fn split(text: &str) -> (&str, Option<Delivery>) {
        let marked = text
            .strip_suffix(']')
            .and_then(|text| text.rsplit_once(" ["));
        let found = marked.and_then(|(text, word)| {
            let known = |delivery: &Delivery| delivery.as_str() == word;
            Some((text, Delivery::ALL.into_iter().find(known)?))
        });
        match found {
            Some((text, delivery)) => (text, Some(delivery)),
            None => (text, None),
        }
    }
}

impl std::fmt::Display for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_comes_back_from_its_text_and_nothing_else_is_one() {
        for delivery in Delivery::ALL {
            let text = format!("object-reset: why [really] [{delivery}]");
            assert_eq!(
                Delivery::split(&text),
                ("object-reset: why [really]", Some(delivery))
            );
        }
        for text in ["", "]", "a [b]", "not-delivered", "x[delivered]"] {
            assert_eq!(Delivery::split(text), (text, None));
        }
    }
}
