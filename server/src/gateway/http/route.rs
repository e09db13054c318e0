//! What a path means.

use percent_encoding::percent_decode_str;

use super::Problem;

/// The object that a request is for, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The object.
    pub object: Named,
    /// What is wanted of it.
    pub want: Want,
}

/// What is wanted of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Its own page. So many bytes at the beginning of the path say where the object is, and it does not see them:
    /// those of `/{Class}/{name}`.
    Page(usize),
    /// Its page, by a path that lacks the last slash. With it, it is here, as seen from there.
    Moved(String),
    /// A call of this method.
    Call(String),
}

/// An object by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub class: String,
    pub name: String,
}

impl Route {
    /// Reads a path of an object: `/{Class}/{name}` and what is below. What is none is not found.
    pub fn read(path: &str) -> Result<Route, Problem> {
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
        let class = class.to_owned();
        let object = Named { class, name };
        let want = match rest {
            Some(rest) => Want::read(rest, path.len() - rest.len() - 1)?,
            // Seen from a folder that is called like this, for it may be one of somebody in front.
            None => Want::Moved(format!("./{raw}/")),
        };
        Ok(Route { object, want })
    }

    /// Reads a path of which all is the object's.
    pub fn of_object(object: Named, path: &str) -> Result<Route, Problem> {
        let rest = path.strip_prefix('/').ok_or(Problem::NoSuchPath)?;
        let want = Want::read(rest, 0)?;
        Ok(Route { object, want })
    }
}

impl Want {
    /// Reads what stands below an object.
    fn read(rest: &str, prefix: usize) -> Result<Want, Problem> {
        match rest.strip_prefix("call/") {
            Some(method) if !method.is_empty() && !method.contains('/') => {
                if !is_escaped(method) {
                    return Err(Problem::BadEscape);
                }
                Ok(Want::Call(method.to_owned()))
            }
            _ => Ok(Want::Page(prefix)),
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

    fn named(class: &str, name: &str) -> Named {
        let (class, name) = (class.to_owned(), name.to_owned());
        Named { class, name }
    }

    #[test]
    fn paths_name_objects_and_what_is_wanted_of_them() {
        let page = |class, name, prefix: &str| Route {
            object: named(class, name),
            want: Want::Page(prefix.len()),
        };
        let call = |name, method: &str| Route {
            object: named("C", name),
            want: Want::Call(method.to_owned()),
        };
        let cases = [
            ("/C/n/", page("C", "n", "/C/n")),
            ("/C/n//a", page("C", "n", "/C/n")),
            (
                "/C/a%2Fb%20%C3%A9/x",
                page("C", "a/b é", "/C/a%2Fb%20%C3%A9"),
            ),
            ("/C/n/call", page("C", "n", "/C/n")),
            ("/C/n/call/", page("C", "n", "/C/n")),
            ("/C/n/call/a/b", page("C", "n", "/C/n")),
            ("/C/n/x/call/a", page("C", "n", "/C/n")),
            ("/C/n/call/get", call("n", "get")),
            ("/C//call/get", call("", "get")),
        ];
        for (path, route) in cases {
            assert_eq!(Route::read(path).unwrap(), route, "{path}");
        }
        let moved = Route {
            object: named("C", "a:b"),
            want: Want::Moved("./a:b/".into()),
        };
        assert_eq!(Route::read("/C/a:b").unwrap(), moved);
        let below = |path| Route::of_object(named("C", "n"), path);
        for path in ["/", "/C/n/", "/call/", "/call/get/x"] {
            assert_eq!(below(path).unwrap(), page("C", "n", ""), "{path}");
        }
        assert_eq!(below("/call/get").unwrap(), call("n", "get"));
        assert!(matches!(below("/call/%"), Err(Problem::BadEscape)));
        assert!(matches!(below("*"), Err(Problem::NoSuchPath)));
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
