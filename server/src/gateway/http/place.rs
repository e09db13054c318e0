//! Hosts of objects: each object may have a host, and so a web origin, of its own.
//!
//! `NAME.CLASS.DOMAIN`, with the class in small letters. Only names that are a label of DNS as they stand are found
//! so: browsers send hosts in small letters, and a name with others would be a second name for them.

/// The domain below which objects have hosts.
#[derive(Clone, Debug)]
pub struct ObjectHosts(String);

/// What a host below the domain names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels {
    /// The name of the class, in small letters.
    pub class: String,
    /// The name of the object.
    pub name: String,
}

impl ObjectHosts {
    /// The hosts below `domain`.
    pub fn new(domain: &str) -> ObjectHosts {
        ObjectHosts(domain.trim_matches('.').to_ascii_lowercase())
    }

    /// What a host without a port names: `None` if it is not below the domain, and `Some(None)` if it is and names
    /// nothing.
    pub(super) fn read(&self, host: &str) -> Option<Option<Labels>> {
        let host = host.to_ascii_lowercase();
        let labels = host.strip_suffix(&self.0)?.strip_suffix('.')?;
        let named = labels.split_once('.').map(|(name, class)| Labels {
            class: class.to_owned(),
            name: name.to_owned(),
        });
        let is_alnum = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Some(named.filter(|it| is_label(&it.name) && is_alnum(&it.class)))
    }
}

fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_below_the_domain_name_objects() {
        let hosts = ObjectHosts::new("Objects.example");
        let named = |name: &str, class: &str| {
            let (class, name) = (class.to_owned(), name.to_owned());
            Some(Some(Labels { class, name }))
        };
        let long = "n".repeat(63);
        for (host, found) in [
            ("lobby.chatroom.objects.example", named("lobby", "chatroom")),
            ("LOBBY.ChatRoom.OBJECTS.example", named("lobby", "chatroom")),
            ("user-1.c.objects.example", named("user-1", "c")),
            (&format!("{long}.c.objects.example"), named(&long, "c")),
            (&format!("{long}n.c.objects.example"), Some(None)),
            ("a.b.c.objects.example", Some(None)),
            ("c.objects.example", Some(None)),
            (".c.objects.example", Some(None)),
            ("-n.c.objects.example", Some(None)),
            ("n-.c.objects.example", Some(None)),
            ("n_n.c.objects.example", Some(None)),
            ("n%20.c.objects.example", Some(None)),
            ("n.c-c.objects.example", Some(None)),
            (".objects.example", Some(None)),
            ("objects.example", None),
            ("n.cobjects.example", None),
            ("n.c.objects.example.evil.example", None),
            ("localhost", None),
            ("", None),
        ] {
            assert_eq!(hosts.read(host), found, "{host}");
        }
    }
}
