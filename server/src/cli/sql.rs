//! `sql`: statements on an object's database.

use std::{collections::HashSet, io};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use capnp::capability::FromClientHook;
use comfy_table::{Table, presets};
use serde_json::{Map, Value as Json};
use vatwerk::storage_capnp::{cursor, operations, row, sql, sql_value};
use vatwerk_client::LocalClient;

use super::{
    args::{Format, SqlArgs},
    dump, json,
    output::{Array, Failure, printable},
    script,
};

/// How many rows are asked for at a time.
const ROWS: u32 = 1000;

/// Runs the statements and prints the rows of the last: a table, CSV, or an array of objects. A statement
/// without columns prints how many rows it wrote, on stderr.
pub async fn sql(
    client: &LocalClient,
    args: &SqlArgs,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let object = client.namespace_named(&args.class).get(&args.name);
    let storage: operations::Client = object.cast_to();
    let format = match (args.csv, args.target.output) {
        (true, _) => Print::Csv,
        (false, Format::Text) => Print::Table,
        (false, Format::Json) => Print::Json,
    };
    let done = match (&args.query, &args.file) {
        _ if args.dump => dump::dump(&storage, out).await,
        (_, Some(path)) => script::run(&storage, path, format, out).await,
        (query, None) => {
            let sql = storage.sql_request().send().pipeline.get_sql();
            let query = query.as_deref().unwrap_or_default();
            let executed = Executed::of(&sql, query, &args.params).await;
            match executed {
                Ok(executed) => executed.print(format, out).await,
                Err(failure) => Err(failure),
            }
        }
    };
    done.map_err(|failure| failure.on_storage(&args.class))
}

/// How rows are printed.
#[derive(Clone, Copy)]
pub enum Print {
    /// A table for people.
    Table,
    /// An array of objects.
    Json,
    /// Lines of fields.
    Csv,
}

/// A statement that has been run, up to its first row.
pub struct Executed {
    cursor: cursor::Client,
    columns: Vec<String>,
}

impl Executed {
    /// Runs statements; the bindings are for the last.
    pub async fn of(sql: &sql::Client, query: &str, params: &[Binding]) -> Result<Self, Failure> {
        let mut request = sql.exec_request();
        request.get().set_query(query);
        let mut bindings = request.get().init_bindings(params.len() as u32);
        for (i, param) in params.iter().enumerate() {
            param.write(bindings.reborrow().get(i as u32));
        }
        let executed = request.send();
        let cursor = executed.pipeline.get_cursor();
        let columns = cursor.columns_request().send().promise;
        // Its error is the statement's own.
        executed.promise.await?;
        let columns = columns.await?;
        let columns = columns.get()?.get_column_names()?;
        let columns = columns
            .iter()
            .map(|name| Ok(name?.to_string()?))
            .collect::<capnp::Result<Vec<_>>>()?;
        Ok(Executed { cursor, columns })
    }

    /// Prints the rows.
    pub async fn print(self, format: Print, out: &mut dyn io::Write) -> Result<(), Failure> {
        let Executed { cursor, columns } = self;
        match format {
            Print::Table => table(&cursor, columns, out).await,
            Print::Json => objects(&cursor, unique(columns), out).await,
            Print::Csv => csv(&cursor, &columns, out).await,
        }
    }

    /// Hands on each row.
    pub async fn each(
        self,
        each: impl FnMut(row::Reader<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        each_row(&self.cursor, each).await
    }
}

async fn csv(
    cursor: &cursor::Client,
    columns: &[String],
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let names = columns.iter().map(|name| quoted(name));
    writeln!(out, "{}", names.collect::<Vec<_>>().join(","))?;
    each_row(cursor, |row| {
        let fields = row.get_values()?.iter().map(|value| {
            Ok(match value.which()? {
                sql_value::Text(value) => quoted(value?.to_str()?),
                _ => text(value)?,
            })
        });
        let fields = fields.collect::<capnp::Result<Vec<_>>>()?;
        Ok(writeln!(out, "{}", fields.join(","))?)
    })
    .await
}

/// A text as a field of CSV, by RFC 4180. An empty one is quoted, for a null is not.
fn quoted(text: &str) -> String {
    if text.is_empty() || text.contains([',', '"', '\r', '\n']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

async fn table(
    cursor: &cursor::Client,
    columns: Vec<String>,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(columns.iter().map(|name| printable(name)));
    each_row(cursor, |row| {
        let cells = row.get_values()?;
        let cells = cells.iter().map(text).collect::<capnp::Result<Vec<_>>>()?;
        table.add_row(cells);
        Ok(())
    })
    .await?;
    if !columns.is_empty() {
        writeln!(out, "{table}")?;
        return Ok(());
    }
    let counts = cursor.counts_request().send().promise.await?;
    super::complain(&format!(
        "{} rows written",
        counts.get()?.get_rows_written()
    ));
    Ok(())
}

async fn objects(
    cursor: &cursor::Client,
    columns: Vec<String>,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let mut array = Array::default();
    each_row(cursor, |row| {
        let mut object = Map::new();
        for (name, value) in columns.iter().zip(row.get_values()?) {
            object.insert(name.clone(), to_json(value)?);
        }
        Ok(array.push(out, &Json::Object(object))?)
    })
    .await?;
    Ok(array.finish(out)?)
}

async fn each_row(
    cursor: &cursor::Client,
    mut each: impl FnMut(row::Reader<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let mut request = cursor.next_request();
        request.get().set_max_rows(ROWS);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        for row in answer.get_rows()? {
            each(row)?;
        }
        if answer.get_done() {
            return Ok(());
        }
    }
}

/// Column names that are all different, so that no column of an object hides another: the second
/// `id` becomes `id:2`.
fn unique(columns: Vec<String>) -> Vec<String> {
    let mut taken: HashSet<String> = columns.iter().cloned().collect();
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for column in columns {
        let name = if seen.insert(column.clone()) {
            column
        } else {
            let mut numbered = (2..).map(|n| format!("{column}:{n}"));
            let free = numbered.find(|name| !taken.contains(name));
            free.expect("there are more numbers than columns")
        };
        taken.insert(name.clone());
        names.push(name);
    }
    names
}

/// What a placeholder stands for.
#[derive(Clone, Debug)]
pub enum Binding {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Binding {
    /// Reads it from JSON, without loss or not at all.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(
            match vatwerk::json::parse(text).map_err(|error| error.to_string())? {
                Json::Null => Binding::Null,
                Json::Bool(value) => Binding::Integer(value.into()),
                Json::String(value) => Binding::Text(value),
                Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                    (Some(number), _) => Binding::Integer(number),
                    (None, Some(float)) if number.is_f64() => Binding::Real(float),
                    _ => return Err("too large for an integer of SQL, which has a sign".to_owned()),
                },
                Json::Object(object) if object.len() == 1 && object.contains_key("base64") => {
                    let text = object["base64"].as_str();
                    let bytes = text.and_then(|text| STANDARD.decode(text).ok());
                    Binding::Blob(bytes.ok_or("not base64")?)
                }
                Json::Object(_) | Json::Array(_) => return Err("not a value of SQL".to_owned()),
            },
        )
    }

    fn write(&self, mut value: sql_value::Builder<'_>) {
        match self {
            Binding::Null => value.set_null(()),
            Binding::Integer(integer) => value.set_integer(*integer),
            Binding::Real(real) => value.set_real(*real),
            Binding::Text(text) => value.set_text(text.as_str()),
            Binding::Blob(bytes) => value.set_blob(bytes),
        }
    }
}

/// A value as a cell of a table. A null is empty, a blob is hexadecimal as in SQL.
fn text(value: sql_value::Reader<'_>) -> capnp::Result<String> {
    Ok(match value.which()? {
        sql_value::Null(()) => String::new(),
        sql_value::Integer(value) => value.to_string(),
        sql_value::Real(value) if value.is_finite() => format!("{value:?}"),
        sql_value::Real(value) => json::not_finite(value).to_owned(),
        sql_value::Text(value) => printable(value?.to_str()?),
        sql_value::Blob(value) => {
            let digits: String = value?.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{digits}'")
        }
    })
}

/// A value as JSON. A blob is base64.
fn to_json(value: sql_value::Reader<'_>) -> capnp::Result<Json> {
    Ok(match value.which()? {
        sql_value::Null(()) => Json::Null,
        sql_value::Integer(value) => value.into(),
        sql_value::Real(value) => json::float(value),
        sql_value::Text(value) => value?.to_str()?.into(),
        sql_value::Blob(value) => STANDARD.encode(value?).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_column_hides_another() {
        let columns = ["id", "id", "id:2", "id", "name"].map(str::to_owned);
        let names = unique(columns.to_vec());
        assert_eq!(names, ["id", "id:3", "id:2", "id:4", "name"]);
    }

    #[test]
    fn bindings_keep_their_value_or_are_refused() {
        let mut message = capnp::message::Builder::new_default();
        let mut bound = |text: &str| {
            let binding = Binding::parse(text)?;
            let mut value = message.init_root::<sql_value::Builder<'_>>();
            binding.write(value.reborrow());
            Ok::<_, String>(to_json(value.into_reader()).unwrap())
        };
        for text in ["null", "-9223372036854775808", "0.5", "\"text\""] {
            assert_eq!(bound(text).unwrap().to_string(), text);
        }
        assert_eq!(bound("true").unwrap(), 1);
        assert_eq!(bound(r#"{"base64":"AP8="}"#).unwrap(), "AP8=");
        for bad in [
            "[1]",
            "{}",
            r#"{"base64":"?"}"#,
            "9223372036854775808",
            "-9223372036854775809",
            "123456789012345678901234567890",
        ] {
            assert!(bound(bad).is_err(), "{bad}");
        }
    }
}
