//! Every function that user SQL may call, and what bounds the time and memory of a call.
//!
//! SQLite asks whether to stop only between the instructions of a statement, so what one call costs
//! must have a bound of its own. A function that is not here is refused, unless the class has brought it
//! along ([`super::own`]): its author answers for what it costs.

/// How the cost of one call grows, and what bounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// Not with its arguments.
    Constant,
    /// With the sizes of its arguments and its result. A value has a largest size, and less the longer
    /// the program of a statement is (`sql::most_bytes`), so all calls of one row have a bound too.
    /// Memory that it takes is counted ([`super::meter`]), and asking for it ends it after twice the
    /// time limit.
    Linear,
    /// With the sizes of its arguments, in an implementation of ours that ends at the deadline
    /// ([`super::functions`], [`super::pattern`], [`super::fulltext`]).
    Ours,
    /// With the product of the sizes of its arguments, which is limited (`functions::bounded`).
    Product,
    /// With each row that it gathers, between which SQLite asks whether to stop. What it gathers is
    /// memory, which is counted.
    Rows,
}

/// The functions with what they cost and a call of each: `v` is a value that may be large, `t` a table
/// of FTS5, and nothing is a function that cannot be called.
#[rustfmt::skip]
pub(super) const FUNCTIONS: [(&str, Cost, &str); 151] = {
    use Cost::{Constant, Linear, Ours, Product, Rows};
    [
    // Core.
    ("abs", Linear, "abs(v)"), ("changes", Constant, "changes()"), ("char", Linear, "char(v)"),
    ("coalesce", Constant, "coalesce(v, 1)"), ("concat", Linear, "concat(v, 1)"),
    ("concat_ws", Linear, "concat_ws(1, v, v)"), ("format", Linear, "format('%s', v)"),
    ("glob", Ours, "glob('*1,1,1,1,1?x', v)"), ("hex", Linear, "hex(v)"),
    ("if", Linear, "if(v, 1, 2)"), ("ifnull", Constant, "ifnull(v, 1)"), ("iif", Linear, "iif(v, 1, 2)"),
    ("instr", Ours, "instr(v, '1,1,1x')"), ("last_insert_rowid", Constant, "last_insert_rowid()"),
    ("length", Linear, "length(v)"), ("like", Ours, "like('%1,1,1,1,1_x', v)"),
    ("likelihood", Constant, "likelihood(v, 0.5)"), ("likely", Constant, "likely(v)"),
    // SQLite was told not to load any.
    ("load_extension", Constant, "load_extension('x')"),
    ("lower", Linear, "lower(v)"), ("ltrim", Ours, "ltrim(v, '[1,')"), ("max", Linear, "max(v, v)"),
    ("min", Linear, "min(v, v)"), ("nullif", Linear, "nullif(v, v)"),
    ("octet_length", Constant, "octet_length(v)"), ("printf", Linear, "printf('%s', v)"),
    ("quote", Linear, "quote(v)"), ("random", Constant, "random()"),
    ("randomblob", Linear, "randomblob(length(v))"), ("replace", Ours, "replace(v, '1,', '')"),
    ("round", Linear, "round(v)"), ("rtrim", Ours, "rtrim(v, ',1]')"), ("sign", Linear, "sign(v)"),
    ("sqlite_source_id", Constant, "sqlite_source_id()"),
    ("sqlite_version", Constant, "sqlite_version()"), ("soundex", Linear, "soundex(v)"), ("substr", Linear, "substr(v, 2)"), ("subtype", Constant, "subtype(v)"),
    ("substring", Linear, "substring(v, 2)"), ("total_changes", Constant, "total_changes()"),
    ("trim", Ours, "trim(v, '[],1')"), ("typeof", Constant, "typeof(v)"),
    ("unhex", Product, "unhex(v, '[],')"), ("unicode", Constant, "unicode(v)"),
    ("unistr", Linear, "unistr(v)"), ("unistr_quote", Linear, "unistr_quote(v)"),
    ("unlikely", Constant, "unlikely(v)"), ("upper", Linear, "upper(v)"),
    ("zeroblob", Linear, "zeroblob(length(v))"),
    // Date and time.
    ("date", Linear, "date(v)"), ("time", Linear, "time(v)"), ("datetime", Linear, "datetime(v)"),
    ("julianday", Linear, "julianday(v)"), ("unixepoch", Linear, "unixepoch(v)"),
    ("strftime", Linear, "strftime(v, 'now')"), ("timediff", Linear, "timediff(v, v)"),
    ("current_date", Constant, "current_date"), ("current_time", Constant, "current_time"),
    ("current_timestamp", Constant, "current_timestamp"),
    // Aggregate and window.
    ("avg", Rows, "avg(v)"), ("count", Rows, "count(v)"),
    ("group_concat", Rows, "group_concat(v)"), ("string_agg", Rows, "string_agg(v, '')"),
    ("sum", Rows, "sum(v)"), ("total", Rows, "total(v)"),
    ("row_number", Rows, "row_number() OVER (ORDER BY v)"), ("rank", Rows, "rank() OVER (ORDER BY v)"),
    ("dense_rank", Rows, "dense_rank() OVER (ORDER BY v)"),
    ("percent_rank", Rows, "percent_rank() OVER (ORDER BY v)"),
    ("cume_dist", Rows, "cume_dist() OVER (ORDER BY v)"), ("ntile", Rows, "ntile(3) OVER (ORDER BY v)"),
    ("lag", Rows, "lag(v) OVER ()"), ("lead", Rows, "lead(v) OVER ()"),
    ("first_value", Rows, "first_value(v) OVER ()"), ("last_value", Rows, "last_value(v) OVER ()"),
    ("nth_value", Rows, "nth_value(v, 3) OVER ()"),
    // Mathematics ([`super::math`]). A number may be a long text.
    ("acos", Linear, "acos(v)"), ("acosh", Linear, "acosh(v)"), ("asin", Linear, "asin(v)"),
    ("asinh", Linear, "asinh(v)"), ("atan", Linear, "atan(v)"), ("atanh", Linear, "atanh(v)"),
    ("ceil", Linear, "ceil(v)"), ("ceiling", Linear, "ceiling(v)"), ("cos", Linear, "cos(v)"),
    ("cosh", Linear, "cosh(v)"), ("degrees", Linear, "degrees(v)"), ("exp", Linear, "exp(v)"),
    ("floor", Linear, "floor(v)"), ("ln", Linear, "ln(v)"), ("log10", Linear, "log10(v)"),
    ("log2", Linear, "log2(v)"), ("radians", Linear, "radians(v)"), ("sin", Linear, "sin(v)"),
    ("sinh", Linear, "sinh(v)"), ("sqrt", Linear, "sqrt(v)"), ("tan", Linear, "tan(v)"),
    ("tanh", Linear, "tanh(v)"), ("trunc", Linear, "trunc(v)"), ("atan2", Linear, "atan2(v, 1)"),
    ("log", Linear, "log(2, v)"), ("mod", Linear, "mod(v, 2)"), ("pow", Linear, "pow(v, 2)"),
    ("power", Linear, "power(2, v)"), ("pi", Constant, "pi()"),
    // JSON. Each path reads the whole document once, and is an instruction.
    ("json", Linear, "json(v)"), ("jsonb", Linear, "jsonb(v)"),
    ("json_array", Linear, "json_array(v)"), ("jsonb_array", Linear, "jsonb_array(v)"),
    ("json_array_length", Linear, "json_array_length(v)"),
    ("json_array_insert", Linear, "json_array_insert(v, '$[0]', 2)"),
    ("jsonb_array_insert", Linear, "jsonb_array_insert(v, '$[0]', 2)"),
    ("json_error_position", Linear, "json_error_position(v)"), ("json_pretty", Linear, "json_pretty(v)"),
    ("json_extract", Linear, "json_extract(v, '$[#-1]', '$.a')"),
    ("jsonb_extract", Linear, "jsonb_extract(v, '$[#-1]', '$.a')"), ("->", Linear, "v -> '$[#-1]'"),
    ("->>", Linear, "v ->> '$[#-1]'"), ("json_insert", Linear, "json_insert(v, '$[#]', 1)"),
    ("jsonb_insert", Linear, "jsonb_insert(v, '$[#]', 1)"),
    ("json_object", Linear, "json_object('a', v)"), ("jsonb_object", Linear, "jsonb_object('a', v)"),
    ("json_patch", Product, "json_patch(v, '{\"a\": 1}')"),
    ("jsonb_patch", Product, "jsonb_patch(v, '{\"a\": 1}')"),
    ("json_remove", Linear, "json_remove(v, '$[0]')"), ("jsonb_remove", Linear, "jsonb_remove(v, '$[0]')"),
    ("json_replace", Linear, "json_replace(v, '$[0]', 2)"),
    ("jsonb_replace", Linear, "jsonb_replace(v, '$[0]', 2)"),
    ("json_set", Linear, "json_set(v, '$[0]', 2)"), ("jsonb_set", Linear, "jsonb_set(v, '$[0]', 2)"),
    ("json_type", Linear, "json_type(v, '$[0]')"), ("json_valid", Linear, "json_valid(v)"),
    ("json_quote", Linear, "json_quote(v)"), ("json_group_array", Rows, "json_group_array(v)"),
    ("jsonb_group_array", Rows, "jsonb_group_array(v)"),
    ("json_group_object", Rows, "json_group_object('a', v)"),
    ("jsonb_group_object", Rows, "jsonb_group_object('a', v)"),
    // Full text and r-trees.
    ("match", Constant, ""), ("highlight", Ours, "highlight(t, 0, '[', ']')"),
    ("bm25", Linear, "bm25(t)"), ("snippet", Ours, "snippet(t, 0, '[', ']', '', 20)"),
    ("rtreecheck", Rows, "rtreecheck('r')"),
    // What ALTER TABLE is made of; SQLite keeps them from user SQL by itself.
    ("sqlite_rename_column", Rows, ""), ("sqlite_rename_table", Rows, ""),
    ("sqlite_rename_test", Rows, ""), ("sqlite_drop_column", Rows, ""),
    ("sqlite_rename_quotefix", Rows, ""), ("sqlite_drop_constraint", Rows, ""),
    ("sqlite_fail", Rows, ""), ("sqlite_add_constraint", Rows, ""),
    ("sqlite_find_constraint", Rows, ""),
    ]
};

/// What a function costs. `None`: user SQL may not call it.
pub(super) fn of(name: &str) -> Option<Cost> {
    let mut functions = FUNCTIONS.iter();
    let found = functions.find(|(function, ..)| function.eq_ignore_ascii_case(name));
    found.map(|(_, cost, _)| *cost)
}

#[cfg(test)]
mod tests;
