//! What the world does to a vat: a slow disk, a failing one, a full one.

use super::{random::Random, vat::Vat};
use crate::env::sim::{Fault, Operation, Survival};

/// Perhaps lets the disk be slow or fail from now on, or work again.
pub fn disturb(random: &mut Random, vat: &Vat, faults: bool) {
    if random.percent(8) {
        if vat.is_held.get() {
            vat.release()
        } else {
            vat.hold()
        }
    }
    if !faults {
        return;
    }
    if vat.is_faulty.get() {
        if random.percent(20) {
            heal(vat);
        }
    } else if random.percent(5) {
        vat.is_faulty.set(true);
        if random.percent(20) {
            let room = random.pick(&[0, 5_000, 50_000]);
            vat.disk.set_capacity(Some(vat.disk.used_bytes() + room));
        } else {
            vat.disk.fail(fault(random));
        }
    }
}

fn fault(random: &mut Random) -> Fault {
    use Operation::*;
    // Whether the kind of fault says itself which operations meet it.
    let (fault, is_narrow) = match random.below(14) {
        0..3 => (Fault::no_space(), false),
        3 => (Fault::no_descriptors(), true),
        4 => (Fault::interrupted(), true),
        5 => (Fault::locked(), true),
        _ => (Fault::io_error(), false),
    };
    let kinds: [&[Operation]; _] = [
        &[Write],
        &[Sync],
        &[Sync, SyncAll, WriteBack],
        &[Write, Sync, SyncAll, SetLen, Allocate, Create, Remove],
        &[Create, Allocate],
        &[Remove],
        &[Read],
        &[Open],
        &[Lock],
    ];
    let kinds = random.pick(&kinds);
    // All files of a kind, or those of one object, of two classes.
    let place = random.pick(&[
        "", "", "journal", "objects", "segment", "pages", "0101", "0202", "catalog", "held",
    ]);
    let fault = fault.when(move |path, kind| {
        (is_narrow || kinds.contains(&kind))
            && (place.is_empty() || path.to_string_lossy().contains(place))
    });
    let seeded = Survival::Seeded(random.next());
    let fault = fault.leaving(random.pick(&[Survival::Nothing, Survival::Everything, seeded]));
    let fault = if random.percent(50) {
        fault.evicting()
    } else {
        fault
    };
    match random.pick(&[0, 0, 1, 1, 2, 3, 6]) {
        0 => fault,
        times => fault.times(times),
    }
}

/// The disk works again, and so must everything else.
pub fn heal(vat: &Vat) {
    vat.disk.heal();
    vat.disk.set_capacity(None);
    vat.work();
    vat.is_faulty.set(false);
}

/// Whether storage may refuse what it is asked to do.
pub fn excuses(vat: &Vat) -> bool {
    vat.is_faulty.get() || vat.is_held.get()
}

/// Perhaps lets the writer and the retirer take steps, where nobody else does their work.
pub fn step_journal(random: &mut Random, vat: &Vat) {
    let journal = vat.journal();
    // A step that is taken within one of the retirer, or of an object that has everything written back.
    journal.step_writer_at_pauses(random.next() & random.next());
    while random.percent(50) {
        if random.percent(60) {
            journal.step_writer();
        } else {
            journal.step_retirer();
        }
    }
}
