use std::collections::HashMap;

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

#[derive(Debug)]
pub(super) struct Struct {
    pub data_words: u16,
    pub pointers: u16,
    pub discriminants: u16,
    /// In units of 16 bits.
    pub discriminant_offset: u32,
    /// In the order of their declaration.
    pub fields: Vec<Field>,
    pub by_name: HashMap<String, usize>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: String,
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
