//! Ids: which object of which class.
//!
//! ```text
//! key  = SHA-256("vatwerk class " || interface id, 8 bytes little-endian)
//! base = HMAC-SHA-256(key, name)[0..16], or 16 random bytes
//! id   = base || HMAC-SHA-256(key, base)[0..16]
//! ```
//! The second half is why an id of another class is refused without looking anything up. The scheme
//! is workerd's, keyed by the interface id.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use vatwerk::{ObjectId, limit_capnp};

use crate::{Error, Result, env};

const HALF: usize = ObjectId::LEN / 2;

/// Makes and checks the ids of one class.
#[derive(Clone)]
pub struct IdScheme {
    keyed: Hmac<Sha256>,
}

impl IdScheme {
    /// The scheme of the class with this interface id.
    pub fn new(interface_id: u64) -> IdScheme {
        let key = Sha256::new()
            .chain_update(b"vatwerk class ")
            .chain_update(interface_id.to_le_bytes())
            .finalize();
        let keyed = Hmac::new_from_slice(&key).expect("HMAC takes keys of any length");
        IdScheme { keyed }
    }

    /// The id that `name` stands for. `invalid-argument` unless the name is 1 to 1024 bytes long.
    pub fn of_name(&self, name: &str) -> Result<ObjectId> {
        check_name(name)?;
        Ok(self.complete(self.half_mac(name.as_bytes())))
    }

    /// An id that no name stands for.
    pub fn unique(&self) -> ObjectId {
        self.complete(env::random())
    }

    /// Reads an id from its bytes. `invalid-argument` if it is malformed or of another class.
    pub fn parse(&self, bytes: &[u8]) -> Result<ObjectId> {
        let id = ObjectId::try_from(bytes).map_err(|e| Error::InvalidArgument(e.to_string()))?;
        self.check(id)
    }

    /// Reads an id from its text form. `invalid-argument` if it is malformed or of another class.
    pub fn parse_text(&self, text: &str) -> Result<ObjectId> {
        let parsed: Result<ObjectId, _> = text.parse();
        self.check(parsed.map_err(|e| Error::InvalidArgument(e.to_string()))?)
    }

    fn check(&self, id: ObjectId) -> Result<ObjectId> {
        let base: [u8; HALF] = std::array::from_fn(|i| id.0[i]);
        if self.complete(base) != id {
            return Err(Error::InvalidArgument(
                "the id is not one of this class".into(),
            ));
        }
        Ok(id)
    }

    fn complete(&self, base: [u8; HALF]) -> ObjectId {
        let mut id = [0; ObjectId::LEN];
        id[..HALF].copy_from_slice(&base);
        id[HALF..].copy_from_slice(&self.half_mac(&base));
        ObjectId(id)
    }

    fn half_mac(&self, data: &[u8]) -> [u8; HALF] {
        let mac = self
            .keyed
            .clone()
            .chain_update(data)
            .finalize()
            .into_bytes();
        std::array::from_fn(|i| mac[i])
    }
}

/// Refuses what cannot be the name of an object.
pub fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::InvalidArgument(
            "the name of an object cannot be empty".into(),
        ));
    }
    let limit = limit_capnp::MAX_NAME_BYTES.into();
    Error::check_limit("the name of an object (bytes)", limit, name.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed apart from this code, with Python's `hashlib` and `hmac`.
    #[test]
    fn ids_of_names_are_fixed_for_ever() {
        let scheme = IdScheme::new(vatwerk_counter());
        let vector = "c2972c92dc4053fa661a0b6b4c6671b3aba826df2e788be85a51e7056bcef3eb";
        assert_eq!(scheme.of_name("user-123").unwrap().to_string(), vector);
        assert_eq!(scheme.parse_text(vector), scheme.of_name("user-123"));
    }

    #[test]
    fn an_id_of_another_class_is_refused() {
        let (ours, theirs) = (IdScheme::new(1), IdScheme::new(2));
        for id in [theirs.of_name("a").unwrap(), theirs.unique()] {
            assert!(theirs.parse(id.as_bytes()).is_ok());
            assert!(matches!(
                ours.parse(id.as_bytes()),
                Err(Error::InvalidArgument(_))
            ));
        }
        assert_ne!(ours.of_name("a"), theirs.of_name("a"));
        assert_ne!(ours.unique(), ours.unique());
    }

    #[test]
    fn names_have_a_length() {
        let scheme = IdScheme::new(1);
        assert!(matches!(scheme.of_name(""), Err(Error::InvalidArgument(_))));
        assert!(scheme.of_name(&"x".repeat(1024)).is_ok());
        assert!(matches!(
            scheme.of_name(&"x".repeat(1025)),
            Err(Error::LimitExceeded { .. })
        ));
    }

    fn vatwerk_counter() -> u64 {
        <vatwerk::counter_capnp::counter::Client as capnp::traits::HasTypeId>::TYPE_ID
    }
}
