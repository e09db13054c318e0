//! `alarms`: what is due when.

use std::io;

use vatwerk::limit_capnp::MAX_LISTED_OBJECTS;
use vatwerk_client::{AlarmPage, LocalClient};

use super::{
    args::{AlarmsArgs, AlarmsVerb},
    output::{Failure, Records},
};

/// Prints the earliest alarm of every object, page after page.
pub async fn alarms(
    client: &LocalClient,
    args: &AlarmsArgs,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let AlarmsVerb::List { limit } = &args.verb;
    let mut left = limit.unwrap_or(u64::MAX);
    let mut after = Some(String::new());
    let mut records = Records::new(args.target.output);
    while let Some(last) = after.filter(|_| left > 0) {
        let mut request = client.session().alarms_request();
        request.get().set_after(last.as_str());
        let limit = left.min(MAX_LISTED_OBJECTS.into());
        request.get().set_limit(limit as u32);
        let answer = request.send().promise.await?;
        let page = AlarmPage::read(answer.get()?)?;
        left = left.saturating_sub(page.alarms.len() as u64);
        for alarm in page.alarms {
            let record = [
                ("dueMs", alarm.due_ms.into()),
                ("className", alarm.class.into()),
                ("name", alarm.name.into()),
                ("id", alarm.id.to_string().into()),
            ];
            records.push(out, &record)?;
        }
        after = page.next;
    }
    Ok(records.finish(out)?)
}
