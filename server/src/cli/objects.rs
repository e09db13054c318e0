//! `objects`: the objects of a class.

use std::io;

use serde_json::{Value, json};
use vatwerk::{limit_capnp::MAX_LISTED_OBJECTS, object_capnp::namespace};
use vatwerk_client::{LocalClient, ObjectInfo, ObjectKey, ObjectState, ObjectStatus, Page};

use super::{
    args::{Format, ObjectsArgs, ObjectsVerb},
    json,
    output::{Failure, Field, Records, fields, line, plain},
};

/// Does what `objects` was asked to.
pub async fn objects(
    client: &LocalClient,
    args: &ObjectsArgs,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let (ObjectsVerb::List { class, .. }
    | ObjectsVerb::Count { class, .. }
    | ObjectsVerb::Show { class, .. }
    | ObjectsVerb::Delete { class, .. }
    | ObjectsVerb::Reset { class, .. }) = &args.verb;
    let objects = Objects {
        namespace: client.namespace_named(class).capability(),
        format: args.target.output,
    };
    match &args.verb {
        ObjectsVerb::List { prefix, limit, .. } => objects.list(prefix, *limit, out).await,
        ObjectsVerb::Count { prefix, .. } => objects.count(prefix, out).await,
        ObjectsVerb::Show { key, .. } => objects.show(&key.key(), out).await,
        ObjectsVerb::Delete { key, .. } => objects.delete(&key.key(), out).await,
        ObjectsVerb::Reset { key, .. } => objects.reset(&key.key(), out).await,
    }
}

struct Objects {
    namespace: namespace::Client,
    format: Format,
}

impl Objects {
    async fn list(
        &self,
        prefix: &str,
        limit: Option<u64>,
        out: &mut dyn io::Write,
    ) -> Result<(), Failure> {
        let mut left = limit.unwrap_or(u64::MAX);
        let mut after = Some(String::new());
        let mut records = Records::new(self.format);
        while let Some(last) = after.filter(|_| left > 0) {
            let mut request = self.namespace.list_request();
            request.get().set_prefix(prefix);
            request.get().set_after(last.as_str());
            let limit = left.min(MAX_LISTED_OBJECTS.into());
            request.get().set_limit(limit as u32);
            let answer = request.send().promise.await?;
            let page = Page::read(answer.get()?)?;
            left = left.saturating_sub(page.objects.len() as u64);
            for object in page.objects {
                records.push(out, &about(object))?;
            }
            after = page.next;
        }
        Ok(records.finish(out)?)
    }

    async fn count(&self, prefix: &str, out: &mut dyn io::Write) -> Result<(), Failure> {
        let mut request = self.namespace.count_request();
        request.get().set_prefix(prefix);
        let count = request.send().promise.await?.get()?.get_count();
        self.number("count", count, out)
    }

    async fn show(&self, key: &ObjectKey, out: &mut dyn io::Write) -> Result<(), Failure> {
        let mut request = self.namespace.show_request();
        key.write(request.get().init_key());
        let answer = request.send().promise.await?;
        let status = ObjectStatus::read(answer.get()?.get_status()?)?;
        let mut shown = Vec::from(about(status.info));
        shown.extend([
            ("fileBytes", status.file_bytes.into()),
            ("exists", status.exists.into()),
            ("state", state(status.state).into()),
            ("inFlight", status.in_flight.into()),
            ("queued", status.queued.into()),
            ("heldCapabilities", status.held_capabilities.into()),
            ("webSockets", status.web_sockets.into()),
            ("alarmMs", status.alarm_ms.into()),
            ("activatedMs", status.activated_ms.into()),
            ("resets", status.resets.into()),
        ]);
        match self.format {
            Format::Text => shown
                .iter()
                .try_for_each(|(name, value)| fields(out, &[*name, &plain(value)]))?,
            Format::Json => line(out, &json::text(&Value::from_iter(shown)))?,
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, out: &mut dyn io::Write) -> Result<(), Failure> {
        let mut request = self.namespace.delete_request();
        key.write(request.get().init_key());
        let existed = request.send().promise.await?.get()?.get_existed();
        self.number("deleted", existed.into(), out)
    }

    async fn reset(&self, key: &ObjectKey, out: &mut dyn io::Write) -> Result<(), Failure> {
        let mut request = self.namespace.reset_request();
        key.write(request.get().init_key());
        let was_awake = request.send().promise.await?.get()?.get_was_awake();
        self.number("reset", was_awake.into(), out)
    }

    fn number(&self, name: &str, number: u64, out: &mut dyn io::Write) -> Result<(), Failure> {
        let text = match self.format {
            Format::Text => number.to_string(),
            Format::Json => json!({ name: number }).to_string(),
        };
        Ok(line(out, &text)?)
    }
}

/// What a listing says of an object. One that does not exist came into being at no time.
fn about(object: ObjectInfo) -> [Field; 5] {
    let created_ms = Some(object.created_ms).filter(|ms| *ms != 0);
    [
        ("name", object.name.into()),
        ("id", object.id.to_string().into()),
        ("createdMs", created_ms.into()),
        ("writtenMs", object.written_ms.into()),
        ("bytes", object.bytes.into()),
    ]
}

fn state(state: ObjectState) -> &'static str {
    match state {
        ObjectState::Asleep => "asleep",
        ObjectState::Waking => "waking",
        ObjectState::Awake => "awake",
    }
}
