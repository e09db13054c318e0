use std::collections::{BTreeMap, HashMap};

use capnp::Word;

/// One declaration of a schema. Ids in it may lead nowhere: whoever follows one looks.
#[derive(Debug)]
pub(super) struct Node {
    pub id: u64,
    /// `vatwerk/object.capnp:Namespace`.
    pub display_name: String,
    /// `Namespace`.
    pub name: String,
    /// The node it is declared in; zero for a struct that stands for parameters or results.
    pub scope: u64,
    pub doc: String,
    pub kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Struct(Struct),
    /// The names of the enumerants.
    Enum(Vec<String>),
    Interface(InterfaceNode),
    Const(Type, Default),
    /// Files and annotations.
    Other,
}

#[derive(Debug, std::default::Default)]
pub(super) struct Struct {
    pub data_words: u16,
    pub pointers: u16,
    pub discriminants: u16,
    /// In units of 16 bits.
    pub discriminant_offset: u32,
    /// In the order of their declaration.
    pub fields: Vec<Field>,
    /// Of a union: the member of the JSON object that tells which of its members is set.
    pub tag: Option<Tag>,
    /// The members that the JSON object may have, by name: see [`super::layout`].
    pub members: Vec<(String, Member)>,
    pub by_name: HashMap<String, usize>,
}

/// The annotation `discriminator` of a union.
#[derive(Debug)]
pub(super) struct Tag {
    /// The name of the member that tells. There once the struct is laid out.
    pub name: Option<String>,
    /// The name of the value, if it is another one than that of the union's member.
    pub value: Option<String>,
}

/// A member of a JSON object.
#[derive(Debug)]
pub(super) enum Member {
    /// A field of the struct, by index.
    Field(usize),
    /// The name of the union's member that is set.
    Tag,
    /// The value of the union's member that is set, whichever that is.
    Chosen,
    /// A member of the struct that is flattened into this one, by index there.
    Flat { field: usize, member: usize },
    /// A member of whichever of the flattened members of the union is set: by field, the index there.
    FlatChosen(BTreeMap<usize, usize>),
}

#[derive(Debug)]
pub(super) struct Field {
    /// In JSON.
    pub name: String,
    /// Of a struct, group or union that is flattened: what comes before the names of its members.
    pub prefix: Option<String>,
    /// Of a named union whose members are told by a tag, until the union is laid out.
    pub tag: Option<Tag>,
    /// Of a member of a union: what the discriminant is when it is set.
    pub discriminant: Option<u16>,
    pub kind: FieldKind,
}

#[derive(Debug)]
pub(super) enum FieldKind {
    Slot {
        /// In units of the type's size. Not checked against the struct: [`super::raw`] does.
        offset: u32,
        ty: Type,
        default: Default,
        /// Whether the schema says the default, for signatures.
        explicit: bool,
    },
    Group(u64),
}

#[derive(Debug)]
pub(super) struct InterfaceNode {
    /// By ordinal.
    pub methods: Vec<MethodNode>,
    pub superclasses: Vec<u64>,
}

#[derive(Debug)]
pub(super) struct MethodNode {
    pub name: String,
    pub code_order: u16,
    pub params: u64,
    pub results: u64,
    pub doc: String,
    /// Whether `$Http.open` says that it may be called over HTTP.
    pub is_open: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    Void,
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    Enum(u64),
    Text,
    Data,
    /// Data that is hexadecimal in JSON.
    Hex,
    List(Box<Type>),
    Struct(u64),
    Interface(u64),
    /// A capability of no particular interface.
    Capability,
    /// `AnyPointer` and its narrower kinds, and type parameters.
    AnyPointer,
}

/// What a field is when nobody has set it.
#[derive(Debug)]
pub(super) enum Default {
    /// Zero, empty or null.
    Zero,
    /// Of a scalar: what is XORed with the bits on the wire.
    Bits(u64),
    Text(String),
    Data(Vec<u8>),
    /// Of a list or struct: a message of its own, as words because reading wants them aligned.
    Message(Vec<Word>),
}
