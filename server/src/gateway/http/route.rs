//! What a path means.

use percent_encoding::percent_decode_str;

use super::Problem;

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// An object's own page: `/{Class}/{name}/rest`.
    Fetch {
        /// The object.
        object: Named<'a>,
        /// What comes before the path as the object sees it: `/{Class}/{name}`.
        prefix: &'a str,
    },
    /// An object without a path: `/{Class}/{name}`. Its own page is elsewhere.
    Moved {
        /// The object.
        object: Named<'a>,
        /// Where it is, as seen from here.
        to: String,
    },
    /// `/{Class}/{name}/call/{method}`.
    Call {
        /// The object.
        object: Named<'a>,
        /// The method.
        method: &'a str,
    },
}

/// An object by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named<'a> {
    pub class: &'a str,
    pub name: String,
}

impl<'a> Route<'a> {
    /// Reads a path. What is no path of an object is not found.
    pub fn read(path: &'a str) -> Result<Route<'a>, Problem> {
        let inside = path.strip_prefix('/').ok_or(Problem::NoSuchPath)?;
        let (class, rest) = inside.split_once('/').ok_or(Problem::NoSuchPath)?;
        let (raw, rest) = match rest.split_once('/') {
            Some((raw, rest)) => (raw, Some(rest)),
            None => (rest, None),
        };
        if !is_escaped(raw) {
            return Err(Problem::BadEscape);
        }
        let name = percent_decode_str(raw).decode_utf8();
        let name = name.map_err(|_| Problem::BadName)?.into_owned();
        let object = Named { class, name };
        let Some(rest) = rest else {
            // Seen from a folder that is called like this, for it may be one of somebody in front.
            let to = format!("./{raw}/");
            return Ok(Route::Moved { object, to });
        };
        match rest.strip_prefix("call/") {
            Some(method) if !method.is_empty() && !method.contains('/') => {
                if !is_escaped(method) {
                    return Err(Problem::BadEscape);
                }
                Ok(Route::Call { object, method })
            }
            _ => Ok(Route::Fetch {
                object,
                prefix: &path[..path.len() - rest.len() - 1],
            }),
        }
    }

    /// The object.
    pub fn object(&self) -> &Named<'a> {
        match self {
            Route::Fetch { object, .. }
            | Route::Moved { object, .. }
            | Route::Call { object, .. } => object,
        }
    }
}

/// Whether each `%` begins an escape.
fn is_escaped(text: &str) -> bool {
    let is_hex = |byte: &u8| byte.is_ascii_hexdigit();
    let digits = |rest: &str| {
        rest.as_bytes()
            .get(..2)
            .is_some_and(|it| it.iter().all(is_hex))
    };
    text.split('%').skip(1).all(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(class: &'static str, name: &str) -> Named<'static> {
        let name = name.to_owned();
        Named { class, name }
    }

    #[test]
    fn paths_name_objects_and_what_is_wanted_of_them() {
        let fetch = |class, name, prefix| Route::Fetch {
            object: named(class, name),
            prefix,
        };
        let call = |name, method| Route::Call {
            object: named("C", name),
            method,
        };
        let cases = [
            ("/C/n/", fetch("C", "n", "/C/n")),
            ("/C/n//a", fetch("C", "n", "/C/n")),
            (
                "/C/a%2Fb%20%C3%A9/x",
                fetch("C", "a/b é", "/C/a%2Fb%20%C3%A9"),
            ),
            ("/C/n/call", fetch("C", "n", "/C/n")),
            ("/C/n/call/", fetch("C", "n", "/C/n")),
            ("/C/n/call/a/b", fetch("C", "n", "/C/n")),
            ("/C/n/x/call/a", fetch("C", "n", "/C/n")),
            ("/C/n/call/get", call("n", "get")),
            ("/C//call/get", call("", "get")),
        ];
        for (path, route) in cases {
            assert_eq!(Route::read(path).unwrap(), route, "{path}");
        }
        let moved = Route::Moved {
            object: named("C", "a:b"),
            to: "./a:b/".into(),
        };
        assert_eq!(Route::read("/C/a:b").unwrap(), moved);
    }

    #[test]
    fn what_names_no_object_is_not_found_and_names_are_text() {
        for path in ["", "*", "/", "/C", "/favicon.ico"] {
            let refused = Route::read(path);
            assert!(matches!(refused, Err(Problem::NoSuchPath)), "{path}");
        }
        for path in [
            "/C/%/",
            "/C/a%2",
            "/C/%zz/x",
            "/C/%%41/",
            "/C/n/call/%g0",
            "/C/%+1/",
        ] {
            let refused = Route::read(path);
            assert!(matches!(refused, Err(Problem::BadEscape)), "{path}");
        }
        // What comes after its name is the object's.
        assert!(Route::read("/C/n/100%").is_ok());
        for path in ["/C/%ff/", "/C/%ff"] {
            let refused = Route::read(path);
            assert!(matches!(refused, Err(Problem::BadName)), "{path}");
        }
    }
}
