//! Whatever is done to many objects, in whatever order: what a recovery finds is the newest state.

use proptest::{prelude::*, sample::select};
use vatwerk::ObjectId;

use super::{
    object::{Object, Step},
    random::Random,
    vat::{self, Vat},
};
use crate::{env::sim::Survival, folder::DatabaseId};

const STEPS: [Step; 8] = [
    Step::Turn,
    Step::Turn,
    Step::LargeTurn,
    Step::ClosureUndone,
    Step::DeleteAll,
    Step::WriteBack,
    Step::Close,
    Step::Delete,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_a_recovery_finds_is_the_newest_state(
        steps in prop::collection::vec((0..5_usize, select(&STEPS[..])), 1..80),
        seed in any::<u64>(),
    ) {
        let (mut random, settings) = (Random::new(seed), vat::settings(16 << 10));
        let vat = Vat::start(&vat::new_disk(), &settings).unwrap();
        let id = |class| DatabaseId { class, object: ObjectId([9; ObjectId::LEN]) };
        let mut objects: Vec<Object> = (0..5).map(id).map(Object::new).collect();
        for (object, step) in steps {
            let done = objects[object].step(&mut random, &vat, step);
            prop_assert!(done.is_ok(), "{}", done.err().unwrap());
        }
        objects.iter_mut().for_each(Object::abandon);
        // Everything is durable, for nothing was held back.
        let disk = vat.disk.after_crash(Survival::Nothing);
        drop(vat);
        let vat = Vat::start(&disk, &settings).unwrap();
        for object in &mut objects {
            let found = object.find(&vat);
            let found = found.map_err(|trouble| TestCaseError::fail(trouble.to_string()))?;
            prop_assert_eq!(&found, object.history.newest());
        }
    }
}
