//! An object's tables and rows as SQL.

use std::{collections::HashSet, io};

use capnp::capability::FromClientHook;
use vatwerk::storage_capnp::{operations, sql, sql_value};

use super::{
    output::Failure,
    sql::{Binding, Executed},
};

/// Prints SQL that makes everything anew, as of one moment: a transaction is open meanwhile. All tables
/// come before all rows, so that foreign keys find theirs.
pub async fn dump(storage: &operations::Client, out: &mut dyn io::Write) -> Result<(), Failure> {
    let transaction = storage.transaction_request().send();
    let transaction = transaction.pipeline.get_transaction();
    let inside: operations::Client = transaction.clone().cast_to();
    let sql = inside.sql_request().send().pipeline.get_sql();
    let tables = Table::all(&sql).await?;
    writeln!(out, "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;")?;
    for table in tables.iter().filter(|table| table.kind != Kind::Shadow) {
        writeln!(out, "{};", table.sql)?;
    }
    let shadows = tables.iter().filter(|table| table.kind == Kind::Shadow);
    let shadows: HashSet<&str> = shadows.map(|table| table.name.as_str()).collect();
    for table in tables.iter().filter(|table| table.kind != Kind::Shadow) {
        table.print_rows(&sql, &shadows, out).await?;
    }
    let sequences = "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'";
    if !texts(&sql, sequences, &[]).await?.is_empty() {
        writeln!(out, "DELETE FROM sqlite_sequence;")?;
        let columns = ["name", "seq"].map(str::to_owned);
        print_rows(&sql, "sqlite_sequence", &columns, out).await?;
    }
    let rest = "SELECT sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL \
                AND tbl_name NOT LIKE '!_vw!_%' ESCAPE '!' ORDER BY type = 'trigger', rowid";
    for row in texts(&sql, rest, &[]).await? {
        writeln!(out, "{};", row[0])?;
    }
    writeln!(out, "COMMIT;")?;
    transaction.rollback_request().send().promise.await?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Virtual,
    /// One that a virtual table keeps, and makes itself.
    Shadow,
}

struct Table {
    name: String,
    sql: String,
    kind: Kind,
}

impl Table {
    /// All that are the object's own, in the order in which they were made.
    async fn all(sql: &sql::Client) -> Result<Vec<Table>, Failure> {
        let query = "SELECT s.name, s.sql, l.type FROM sqlite_schema AS s JOIN pragma_table_list AS l \
                     ON l.schema = 'main' AND l.name = s.name WHERE s.type = 'table' \
                     AND s.name NOT LIKE '!_vw!_%' ESCAPE '!' AND s.name NOT LIKE 'sqlite!_%' ESCAPE '!' \
                     ORDER BY s.rowid";
        let rows = texts(sql, query, &[]).await?.into_iter();
        let table = |mut row: Vec<String>| Table {
            kind: match row[2].as_str() {
                "shadow" => Kind::Shadow,
                "virtual" => Kind::Virtual,
                _ => Kind::Plain,
            },
            sql: row.swap_remove(1),
            name: row.swap_remove(0),
        };
        Ok(rows.map(table).collect())
    }

    async fn print_rows(
        &self,
        sql: &sql::Client,
        shadows: &HashSet<&str>,
        out: &mut dyn io::Write,
    ) -> Result<(), Failure> {
        let name = &self.name;
        // Those of generated columns, and what a virtual table hides, cannot be written.
        let columns = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid";
        let named = [Binding::Text(name.clone())];
        let columns = texts(sql, columns, &named).await?.into_iter();
        let mut columns: Vec<String> = columns.flatten().collect();
        if self.kind == Kind::Virtual {
            let module: String = self.sql.split_whitespace().collect();
            let module = module.to_ascii_lowercase();
            if module.contains("usingfts5vocab(") {
                return Ok(());
            }
            if module.contains("usingfts5(") {
                if !shadows.contains(format!("{name}_content").as_str()) {
                    return index(name, &module, out);
                }
                columns.insert(0, "rowid".to_owned());
            }
        }
        print_rows(sql, name, &columns, out).await
    }
}

/// A full-text index without rows of its own.
fn index(name: &str, module: &str, out: &mut dyn io::Write) -> Result<(), Failure> {
    let is_empty = |quotes: &str| module.contains(&format!("content={quotes}"));
    let name = identifier(name);
    if is_empty("''") || is_empty("\"\"") {
        super::complain(&format!(
            "the full-text index {name} keeps no texts: its rows are not in the dump"
        ));
        return Ok(());
    }
    Ok(writeln!(
        out,
        "INSERT INTO {name}({name}) VALUES('rebuild');"
    )?)
}

async fn print_rows(
    sql: &sql::Client,
    table: &str,
    columns: &[String],
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let columns: Vec<String> = columns.iter().map(|name| identifier(name)).collect();
    let (columns, table) = (columns.join(","), identifier(table));
    if columns.is_empty() {
        return Ok(());
    }
    let rows = Executed::of(sql, &format!("SELECT {columns} FROM {table}"), &[]).await?;
    rows.each(|row| {
        let values = row.get_values()?.iter().map(literal);
        let values = values.collect::<capnp::Result<Vec<_>>>()?.join(",");
        Ok(writeln!(
            out,
            "INSERT INTO {table}({columns}) VALUES({values});"
        )?)
    })
    .await
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as it is written in SQL, of the same type and without loss.
fn literal(value: sql_value::Reader<'_>) -> capnp::Result<String> {
    let hex = |bytes: &[u8]| {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("X'{digits}'")
    };
    Ok(match value.which()? {
        sql_value::Null(()) => "NULL".to_owned(),
        // Its absolute value is no integer of 64 bits.
        sql_value::Integer(i64::MIN) => "(-9223372036854775807-1)".to_owned(),
        sql_value::Integer(value) => value.to_string(),
        sql_value::Real(value) if value.is_infinite() => {
            format!("{}9.0e999", if value < 0.0 { "-" } else { "" })
        }
        sql_value::Real(value) => format!("{value:?}"),
        sql_value::Text(value) => {
            let text = value?.to_str()?;
            if text.contains('\0') {
                return Ok(format!("CAST({} AS TEXT)", hex(text.as_bytes())));
            }
            format!("'{}'", text.replace('\'', "''"))
        }
        sql_value::Blob(value) => hex(value?),
    })
}

/// The rows of a query whose values are texts. What is none is empty.
async fn texts(
    sql: &sql::Client,
    query: &str,
    params: &[Binding],
) -> Result<Vec<Vec<String>>, Failure> {
    let mut rows = Vec::new();
    let executed = Executed::of(sql, query, params).await?;
    executed
        .each(|row| {
            let text = |value: sql_value::Reader<'_>| {
                Ok(match value.which()? {
                    sql_value::Text(text) => text?.to_str()?.to_owned(),
                    _ => String::new(),
                })
            };
            let values = row.get_values()?.iter().map(text);
            rows.push(values.collect::<capnp::Result<Vec<_>>>()?);
            Ok(())
        })
        .await?;
    Ok(rows)
}
