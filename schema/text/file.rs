use std::{collections::BTreeMap, fmt::Write as _};

use capnp::schema_capnp::{annotation, enumerant, field, method, node, type_};

use super::{
    FOLDER, MAX_DEPTH, MAX_TEXT_BYTES, Paths, annotation_text,
    names::{Names, Scope, camel},
    nodes::{Nodes, Result, identifier, short_name},
    value,
};
use crate::json::SchemaError;

/// The type that `-> stream` stands for.
const STREAM_RESULT: u64 = 0x995f_9a33_77c0_b16e;

const GO: u64 = 0xd12a_1c51_fedd_6c88;
const GO_PACKAGE: u64 = 0xbea9_7f10_2379_2be0;
const GO_IMPORT: u64 = 0xe130_b601_260e_44b5;
const JAVA: u64 = 0xc5f1_af96_651f_70ea;
const JAVA_PACKAGE: u64 = 0x9ee4_c8f8_03b3_b596;
const JAVA_OUTER_CLASSNAME: u64 = 0x9b06_6bb4_881f_7cd3;

/// How far each level of declarations is indented.
const INDENT: usize = 2;

/// Writes the file of that id.
pub(super) fn print<'a>(nodes: &'a Nodes<'a>, paths: &'a Paths, id: u64) -> Result<String> {
    let mut printer = Printer {
        nodes,
        names: Names::new(nodes, paths, id),
        body: String::new(),
        level: 0,
    };
    let file = nodes.get(id)?;
    let scope = Scope {
        nodes: vec![file],
        ..Scope::default()
    };
    let mut annotations = Vec::new();
    for annotation in file.get_annotations()? {
        annotations.extend(printer.annotation(annotation, &scope)?);
    }
    annotations.extend(printer.of_languages(file)?);
    printer.nested(&scope)?;

    let body = std::mem::take(&mut printer.body);
    let mut head = printer;
    head.line(&format!("@0x{id:016x};"))?;
    head.comment(nodes.doc(id)?)?;
    head.body.push('\n');
    for (&file, name) in &head.names.imports.clone() {
        let path = head.names.path_of(file)?;
        head.line(&format!("using {name} = import \"/{path}\";"))?;
    }
    for annotation in annotations {
        head.line(&format!("{annotation};"))?;
    }
    head.body += &body;
    Ok(head.body)
}

struct Printer<'a> {
    nodes: &'a Nodes<'a>,
    names: Names<'a>,
    body: String,
    level: usize,
}

impl<'a> Printer<'a> {
    fn line(&mut self, line: &str) -> Result<()> {
        if self.body.len() + line.len() > MAX_TEXT_BYTES {
            return Err(SchemaError::TooLarge("MAX_TEXT_BYTES"));
        }
        let indent = self.level * INDENT;
        writeln!(self.body, "{:indent$}{line}", "").expect("a string takes everything");
        Ok(())
    }

    fn comment(&mut self, doc: &str) -> Result<()> {
        for line in doc.lines() {
            let line: String = line.chars().filter(|it| !it.is_control()).collect();
            self.line(format!("# {line}").trim_end())?;
        }
        Ok(())
    }

    /// Opens a block behind a heading, with the comment on what is in it.
    fn open(&mut self, heading: &str, doc: &str) -> Result<()> {
        self.line(&format!("{heading} {{"))?;
        self.level += 1;
        if self.level > MAX_DEPTH {
            return Err(SchemaError::TooLarge("MAX_DEPTH"));
        }
        self.comment(doc)
    }

    fn close(&mut self) -> Result<()> {
        self.level -= 1;
        self.line("}")
    }

    /// The annotations that the generators of some languages insist on, where the file has none.
    fn of_languages(&mut self, file: node::Reader<'a>) -> Result<Vec<String>> {
        let mut has = BTreeMap::new();
        for annotation in file.get_annotations()? {
            has.insert(annotation.get_id(), annotation_text(annotation)?);
        }
        let path = self.names.path_of(file.get_id())?;
        let folder = path.rsplit_once('/').map_or(FOLDER, |(folder, _)| folder);
        let word = |part: &str| -> String {
            let word = part.chars().filter(char::is_ascii_alphanumeric);
            word.map(|it| it.to_ascii_lowercase()).collect()
        };
        let words: Vec<String> = folder.split('/').map(word).collect();
        let mut added = Vec::new();
        let mut add = |names: &mut Names<'a>, id, file, name, value: &str| {
            if !has.contains_key(&id) {
                added.push(format!("${}.{name}(\"{value}\")", names.import(file)?));
            }
            Ok::<(), SchemaError>(())
        };
        let package = words.last().map_or(FOLDER, String::as_str);
        add(&mut self.names, GO_PACKAGE, GO, "package", package)?;
        add(&mut self.names, GO_IMPORT, GO, "import", folder)?;
        add(
            &mut self.names,
            JAVA_PACKAGE,
            JAVA,
            "package",
            &words.join("."),
        )?;
        let mut outer = camel(path) + "File";
        while self.nodes.names.contains(outer.as_str()) {
            outer.push('_');
        }
        add(
            &mut self.names,
            JAVA_OUTER_CLASSNAME,
            JAVA,
            "outerClassname",
            &outer,
        )?;
        Ok(added)
    }

    /// An annotation as it is written behind what it is about; nothing if the request does not say
    /// what it means.
    fn annotation(
        &mut self,
        it: annotation::Reader<'a>,
        scope: &Scope<'a>,
    ) -> Result<Option<String>> {
        let Ok(declaration) = self.nodes.get(it.get_id()) else {
            return Ok(None);
        };
        let node::Annotation(declared) = declaration.which()? else {
            return Err(SchemaError::Inconsistent(format!(
                "@0x{:016x} is no annotation",
                it.get_id()
            )));
        };
        let mut name = self
            .names
            .reference(it.get_id(), it.get_brand()?, scope, 0)?;
        if name.starts_with('.') {
            name.insert(0, ' ');
        }
        let value = value::print(self.nodes, declared.get_type()?, it.get_value()?)?;
        Ok(Some(match value.as_deref() {
            None | Some("void") => format!("${name}"),
            // The members of a struct are between the same parentheses.
            Some(value) if value.starts_with('(') => format!("${name}{value}"),
            Some(value) => format!("${name}({value})"),
        }))
    }

    /// Annotations in a row, each behind a blank.
    fn annotations(
        &mut self,
        all: capnp::struct_list::Reader<'a, annotation::Owned>,
        scope: &Scope<'a>,
    ) -> Result<String> {
        let mut row = String::new();
        for it in all {
            if let Some(it) = self.annotation(it, scope)? {
                row.push(' ');
                row += &it;
            }
        }
        Ok(row)
    }

    /// Everything that is declared inside of the innermost node of a scope.
    fn nested(&mut self, scope: &Scope<'a>) -> Result<()> {
        let Some(outer) = scope.nodes.last() else {
            return Ok(());
        };
        for nested in outer.get_nested_nodes()? {
            // A file that is only imported is there in part.
            let Ok(node) = self.nodes.get(nested.get_id()) else {
                continue;
            };
            if node.get_scope_id() != outer.get_id() {
                return Err(SchemaError::Inconsistent(format!(
                    "@0x{:016x} is in two scopes",
                    node.get_id()
                )));
            }
            self.body.push('\n');
            self.declaration(node, scope)?;
        }
        Ok(())
    }

    fn declaration(&mut self, node: node::Reader<'a>, outer: &Scope<'a>) -> Result<()> {
        let id = node.get_id();
        let name = format!("{} @0x{id:016x}", short_name(node)?);
        let doc = self.nodes.doc(id)?;
        let mut scope = outer.clone();
        scope.nodes.push(node);
        let parameters = match self.nodes.parameters(node)? {
            names if names.is_empty() => String::new(),
            names => format!(" ({})", names.join(", ")),
        };
        // The annotations of a declaration stand outside of it.
        let annotations = self.annotations(node.get_annotations()?, outer)?;
        match node.which()? {
            node::File(()) => Err(SchemaError::Inconsistent("a nested file".to_owned())),
            node::Struct(_) => {
                self.open(&format!("struct {name}{parameters}{annotations}"), doc)?;
                self.members(node, &scope)?;
                self.nested(&scope)?;
                self.close()
            }
            node::Enum(it) => {
                self.open(&format!("enum {name}{annotations}"), doc)?;
                let all = it.get_enumerants()?;
                let mut all: Vec<(u32, enumerant::Reader<'a>)> = (0..).zip(all).collect();
                all.sort_by_key(|(_, it)| it.get_code_order());
                for (ordinal, it) in all {
                    let name = identifier(it.get_name()?)?;
                    let annotations = self.annotations(it.get_annotations()?, &scope)?;
                    self.line(&format!("{name} @{ordinal}{annotations};"))?;
                    self.comment(self.nodes.member_doc(id, ordinal)?)?;
                }
                self.nested(&scope)?;
                self.close()
            }
            node::Interface(it) => {
                let mut extends = Vec::new();
                for it in it.get_superclasses()? {
                    let (id, brand) = (it.get_id(), it.get_brand()?);
                    extends.push(self.names.reference(id, brand, &scope, 0)?);
                }
                let extends = match &extends[..] {
                    [] => String::new(),
                    all => format!(" extends({})", all.join(", ")),
                };
                let heading = format!("interface {name}{parameters}{extends}{annotations}");
                self.open(&heading, doc)?;
                let mut all: Vec<(u32, method::Reader<'a>)> =
                    (0..).zip(it.get_methods()?).collect();
                all.sort_by_key(|(_, it)| it.get_code_order());
                for (ordinal, it) in all {
                    self.method(it, ordinal, &scope)?;
                    self.comment(self.nodes.member_doc(id, ordinal)?)?;
                }
                self.nested(&scope)?;
                self.close()
            }
            node::Const(it) => {
                let ty = self.typed(it.get_type()?, outer)?;
                let value = value::print(self.nodes, it.get_type()?, it.get_value()?)?;
                let Some(value) = value else {
                    return Err(SchemaError::Inconsistent("a constant is null".to_owned()));
                };
                self.line(&format!("const {name} {ty} = {value}{annotations};"))?;
                self.comment(doc)
            }
            node::Annotation(it) => {
                let targets = targets(it);
                let ty = self.typed(it.get_type()?, outer)?;
                self.line(&format!("annotation {name} ({targets}) {ty}{annotations};"))?;
                self.comment(doc)
            }
        }
    }

    /// The fields, groups and unions of a struct, or of a group.
    fn members(&mut self, node: node::Reader<'a>, scope: &Scope<'a>) -> Result<()> {
        let node::Struct(it) = node.which()? else {
            return Err(SchemaError::Inconsistent("a group is no struct".to_owned()));
        };
        let mut all: Vec<(u32, field::Reader<'a>)> = (0..).zip(it.get_fields()?).collect();
        all.sort_by_key(|(_, it)| it.get_code_order());
        let (members, fields): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(_, it)| it.get_discriminant_value() != field::NO_DISCRIMINANT);
        // Members of the union are neighbours in the file, and so have neighbouring places.
        let place = members.first().map(|(_, it)| it.get_code_order());
        let before = |it: &field::Reader<'_>| place.is_none_or(|place| it.get_code_order() < place);
        let (before, after): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(_, it)| before(it));
        for (i, it) in before {
            self.member(node, i, it, scope)?;
        }
        if !members.is_empty() {
            self.open("union", "")?;
            for (i, it) in members {
                self.member(node, i, it, scope)?;
            }
            self.close()?;
        }
        for (i, it) in after {
            self.member(node, i, it, scope)?;
        }
        Ok(())
    }

    fn member(
        &mut self,
        node: node::Reader<'a>,
        index: u32,
        it: field::Reader<'a>,
        scope: &Scope<'a>,
    ) -> Result<()> {
        let name = identifier(it.get_name()?)?;
        let annotations = self.annotations(it.get_annotations()?, scope)?;
        let ordinal = match it.get_ordinal().which()? {
            field::ordinal::Explicit(ordinal) => format!(" @{ordinal}"),
            field::ordinal::Implicit(()) => String::new(),
        };
        let doc = self.nodes.member_doc(node.get_id(), index)?;
        match it.which()? {
            field::Slot(slot) => {
                let rest = self.slot(slot, scope)?;
                self.line(&format!("{name}{ordinal} {rest}{annotations};"))?;
                self.comment(doc)
            }
            field::Group(group) => {
                let group = self.nodes.get(group.get_type_id())?;
                let node::Struct(inner) = group.which()? else {
                    return Err(SchemaError::Inconsistent("a group is no struct".to_owned()));
                };
                let doc = match doc {
                    "" => self.nodes.doc(group.get_id())?,
                    doc => doc,
                };
                // A union that has a name is a group with nothing in it but a union: which of the two it was
                // is lost, unless it has an annotation that is for unions only.
                if ordinal.is_empty() && !self.is_for_unions(it)? {
                    self.open(&format!("{name} :group{annotations}"), doc)?;
                    self.members(group, scope)?;
                } else {
                    let bang = if ordinal.is_empty() { "" } else { "!" };
                    // Its number says when the union got its tag, and so where that lies.
                    self.open(&format!("{name}{ordinal}{bang} :union{annotations}"), doc)?;
                    let mut all: Vec<(u32, field::Reader<'a>)> =
                        (0..).zip(inner.get_fields()?).collect();
                    all.sort_by_key(|(_, it)| it.get_code_order());
                    for (i, it) in all {
                        self.member(group, i, it, scope)?;
                    }
                }
                self.close()
            }
        }
    }

    /// Whether a field has an annotation that a union may have and a group may not.
    fn is_for_unions(&self, it: field::Reader<'a>) -> Result<bool> {
        for annotation in it.get_annotations()? {
            if let node::Annotation(it) = self.nodes.get(annotation.get_id())?.which()?
                && it.get_targets_union()
                && !it.get_targets_group()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A colon and a type.
    fn typed(&mut self, ty: type_::Reader<'a>, scope: &Scope<'a>) -> Result<String> {
        let ty = self.names.ty(ty, scope, 0)?;
        // A colon and a dot would be one sign together, which means nothing.
        let blank = if ty.starts_with('.') { " " } else { "" };
        Ok(format!(":{blank}{ty}"))
    }

    /// The type of a field or parameter, and its default.
    fn slot(&mut self, slot: field::slot::Reader<'a>, scope: &Scope<'a>) -> Result<String> {
        let ty = slot.get_type()?;
        let mut text = self.typed(ty, scope)?;
        if slot.get_had_explicit_default()
            && let Some(value) = value::print(self.nodes, ty, slot.get_default_value()?)?
        {
            text += " = ";
            text += &value;
        }
        Ok(text)
    }

    fn method(&mut self, it: method::Reader<'a>, ordinal: u32, scope: &Scope<'a>) -> Result<()> {
        let mut scope = scope.clone();
        for parameter in it.get_implicit_parameters()? {
            scope.of_method.push(identifier(parameter.get_name()?)?);
        }
        let of_method = match &scope.of_method[..] {
            [] => String::new(),
            all => format!(" [{}]", all.join(", ")),
        };
        let name = identifier(it.get_name()?)?;
        let mut line = format!("{name} @{ordinal}{of_method} ");
        line += &self.tuple(it.get_param_struct_type(), it.get_param_brand()?, &scope)?;
        if it.get_result_struct_type() == STREAM_RESULT {
            line += " -> stream";
        } else {
            let results =
                self.tuple(it.get_result_struct_type(), it.get_result_brand()?, &scope)?;
            if results != "()" {
                line += " -> ";
                line += &results;
            }
        }
        line += &self.annotations(it.get_annotations()?, &scope)?;
        line.push(';');
        self.line(&line)
    }

    /// Parameters or results: a list of them, or the struct that has them as members.
    fn tuple(
        &mut self,
        id: u64,
        brand: capnp::schema_capnp::brand::Reader<'a>,
        scope: &Scope<'a>,
    ) -> Result<String> {
        let node = self.nodes.get(id)?;
        if node.get_scope_id() != 0 {
            return self.names.reference(id, brand, scope, 0);
        }
        let node::Struct(it) = node.which()? else {
            return Err(SchemaError::Inconsistent(
                "parameters are no struct".to_owned(),
            ));
        };
        let mut all: Vec<field::Reader<'a>> = it.get_fields()?.iter().collect();
        all.sort_by_key(|it| it.get_code_order());
        let mut texts = Vec::new();
        for it in all {
            let field::Slot(slot) = it.which()? else {
                return Err(SchemaError::Inconsistent(
                    "a parameter is a group".to_owned(),
                ));
            };
            let name = identifier(it.get_name()?)?;
            let rest = self.slot(slot, scope)?;
            let annotations = self.annotations(it.get_annotations()?, scope)?;
            texts.push(format!("{name} {rest}{annotations}"));
        }
        Ok(format!("({})", texts.join(", ")))
    }
}

/// The list of the kinds of declarations that an annotation may stand on.
fn targets(it: node::annotation::Reader<'_>) -> String {
    let all = [
        ("file", it.get_targets_file()),
        ("const", it.get_targets_const()),
        ("enum", it.get_targets_enum()),
        ("enumerant", it.get_targets_enumerant()),
        ("struct", it.get_targets_struct()),
        ("field", it.get_targets_field()),
        ("union", it.get_targets_union()),
        ("group", it.get_targets_group()),
        ("interface", it.get_targets_interface()),
        ("method", it.get_targets_method()),
        ("param", it.get_targets_param()),
        ("annotation", it.get_targets_annotation()),
    ];
    if all.iter().all(|(_, has)| *has) {
        return "*".to_owned();
    }
    let names = all.iter().filter(|(_, has)| *has).map(|(name, _)| *name);
    names.collect::<Vec<_>>().join(", ")
}
