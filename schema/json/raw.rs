//! Access to messages without a static type. Every offset here comes from a schema that may be
//! malicious, and the setters of `capnp` do not check theirs: [`Slots`] is the one place that does.

use capnp::{
    Result, Word,
    introspect::{Introspect, Type, TypeVariant},
    private::layout::{
        ElementSize, ListBuilder, ListReader, PointerBuilder, PointerReader, PrimitiveElement,
        StructBuilder, StructReader, StructSize,
    },
    struct_list,
    traits::{
        FromPointerBuilder, FromPointerReader, HasStructSize, IntoInternalStructReader,
        OwnedStruct, SetterInput,
    },
};

use super::error::Problem;

/// Gets the pointer itself out of an `any_pointer::Reader`.
pub(crate) struct ReadPointer<'a>(pub PointerReader<'a>);

impl<'a> FromPointerReader<'a> for ReadPointer<'a> {
    fn get_from_pointer(reader: &PointerReader<'a>, _: Option<&'a [Word]>) -> Result<Self> {
        Ok(Self(*reader))
    }
}

/// Gets the pointer itself out of an `any_pointer::Builder`.
pub(crate) struct WritePointer<'a>(pub PointerBuilder<'a>);

impl<'a> FromPointerBuilder<'a> for WritePointer<'a> {
    fn init_pointer(builder: PointerBuilder<'a>, _: u32) -> Self {
        Self(builder)
    }

    fn get_from_pointer(builder: PointerBuilder<'a>, _: Option<&'a [Word]>) -> Result<Self> {
        Ok(Self(builder))
    }
}

/// A struct of any type, for the sake of `struct_list`, which is the only way to an element of a
/// list of structs.
pub(crate) struct AnyStruct;
pub(crate) struct AnyStructReader<'a>(pub StructReader<'a>);
pub(crate) struct AnyStructBuilder<'a>(StructBuilder<'a>);

impl Introspect for AnyStruct {
    fn introspect() -> Type {
        TypeVariant::AnyPointer.into()
    }
}

impl OwnedStruct for AnyStruct {
    type Reader<'a> = AnyStructReader<'a>;
    type Builder<'a> = AnyStructBuilder<'a>;
}

impl<'a> From<StructReader<'a>> for AnyStructReader<'a> {
    fn from(reader: StructReader<'a>) -> Self {
        Self(reader)
    }
}

impl<'a> IntoInternalStructReader<'a> for AnyStructReader<'a> {
    fn into_internal_struct_reader(self) -> StructReader<'a> {
        self.0
    }
}

impl SetterInput<AnyStruct> for AnyStructReader<'_> {
    fn set_pointer_builder(
        mut builder: PointerBuilder<'_>,
        input: Self,
        canonicalize: bool,
    ) -> Result<()> {
        builder.set_struct(&input.0, canonicalize)
    }
}

impl<'a> From<StructBuilder<'a>> for AnyStructBuilder<'a> {
    fn from(builder: StructBuilder<'a>) -> Self {
        Self(builder)
    }
}

impl HasStructSize for AnyStructBuilder<'_> {
    // A list that exists is not grown to fit this, so it is right for every list.
    const STRUCT_SIZE: StructSize = StructSize {
        data: 0,
        pointers: 0,
    };
}

/// How many bits a scalar takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    W0,
    W1,
    W8,
    W16,
    W32,
    W64,
}

impl Width {
    fn bits(self) -> u64 {
        match self {
            Self::W0 => 0,
            Self::W1 => 1,
            Self::W8 => 8,
            Self::W16 => 16,
            Self::W32 => 32,
            Self::W64 => 64,
        }
    }

    pub(crate) fn element_size(self) -> ElementSize {
        match self {
            Self::W0 => ElementSize::Void,
            Self::W1 => ElementSize::Bit,
            Self::W8 => ElementSize::Byte,
            Self::W16 => ElementSize::TwoBytes,
            Self::W32 => ElementSize::FourBytes,
            Self::W64 => ElementSize::EightBytes,
        }
    }

    /// The words that a list of that many takes.
    pub(crate) fn words(self, count: usize) -> u64 {
        (count as u64).saturating_mul(self.bits()).div_ceil(64)
    }
}

/// A struct that is being written.
pub(crate) struct Slots<'a> {
    builder: StructBuilder<'a>,
    size: StructSize,
}

impl<'a> Slots<'a> {
    pub(crate) fn init(pointer: PointerBuilder<'a>, size: StructSize) -> Self {
        Self {
            builder: pointer.init_struct(size),
            size,
        }
    }

    /// The struct that is there, or a new one.
    pub(crate) fn open(pointer: PointerBuilder<'a>, size: StructSize) -> Result<Self> {
        Ok(Self {
            builder: pointer.get_struct(size, None)?,
            size,
        })
    }

    /// The same struct again, for a group of it.
    pub(crate) fn reborrow(&mut self) -> Slots<'_> {
        Slots {
            builder: self.builder.reborrow(),
            size: self.size,
        }
    }

    pub(crate) fn set(
        &mut self,
        width: Width,
        offset: u32,
        bits: u64,
    ) -> std::result::Result<(), Problem> {
        let end = (u64::from(offset) + 1) * width.bits();
        if end > u64::from(self.size.data) * 64 {
            return Err(outside());
        }
        let offset = offset as usize;
        match width {
            Width::W0 => {}
            Width::W1 => self.builder.set_bool_field(offset, bits & 1 != 0),
            Width::W8 => self.builder.set_data_field(offset, bits as u8),
            Width::W16 => self.builder.set_data_field(offset, bits as u16),
            Width::W32 => self.builder.set_data_field(offset, bits as u32),
            Width::W64 => self.builder.set_data_field(offset, bits),
        }
        Ok(())
    }

    pub(crate) fn pointer(
        &mut self,
        offset: u32,
    ) -> std::result::Result<PointerBuilder<'_>, Problem> {
        if offset >= u32::from(self.size.pointers) {
            return Err(outside());
        }
        Ok(self.builder.reborrow().get_pointer_field(offset as usize))
    }
}

fn outside() -> Problem {
    Problem::Schema("a field lies outside of its struct".to_owned())
}

/// A list of structs that is being written.
pub(crate) struct SlotsList<'a> {
    list: struct_list::Builder<'a, AnyStruct>,
    size: StructSize,
}

impl<'a> SlotsList<'a> {
    pub(crate) fn init(
        mut pointer: PointerBuilder<'a>,
        count: u32,
        size: StructSize,
    ) -> Result<Self> {
        pointer.reborrow().init_struct_list(count, size);
        Ok(Self {
            list: FromPointerBuilder::get_from_pointer(pointer, None)?,
            size,
        })
    }

    /// # Panics
    ///
    /// If there are not that many elements.
    pub(crate) fn get(&mut self, index: u32) -> Slots<'_> {
        Slots {
            builder: self.list.reborrow().get(index).0,
            size: self.size,
        }
    }
}

/// # Panics
///
/// If there are not that many elements. The list must be of that width.
pub(crate) fn set_element(list: &ListBuilder<'_>, width: Width, index: u32, bits: u64) {
    match width {
        Width::W0 => {}
        Width::W1 => PrimitiveElement::set(list, index, bits & 1 != 0),
        Width::W8 => PrimitiveElement::set(list, index, bits as u8),
        Width::W16 => PrimitiveElement::set(list, index, bits as u16),
        Width::W32 => PrimitiveElement::set(list, index, bits as u32),
        Width::W64 => PrimitiveElement::set(list, index, bits),
    }
}

/// # Panics
///
/// If there are not that many elements. The list must be of that width.
pub(crate) fn element(list: &ListReader<'_>, width: Width, index: u32) -> u64 {
    match width {
        Width::W0 => 0,
        Width::W1 => u64::from(<bool as PrimitiveElement>::get(list, index)),
        Width::W8 => u64::from(<u8 as PrimitiveElement>::get(list, index)),
        Width::W16 => u64::from(<u16 as PrimitiveElement>::get(list, index)),
        Width::W32 => u64::from(<u32 as PrimitiveElement>::get(list, index)),
        Width::W64 => <u64 as PrimitiveElement>::get(list, index),
    }
}

/// The bits of a field as they are on the wire; zero for a struct of an older schema that ends
/// before it. Readers check offsets themselves.
pub(crate) fn field(reader: &StructReader<'_>, width: Width, offset: u32) -> u64 {
    let offset = offset as usize;
    match width {
        Width::W0 => 0,
        Width::W1 => u64::from(reader.get_bool_field(offset)),
        Width::W8 => u64::from(reader.get_data_field::<u8>(offset)),
        Width::W16 => u64::from(reader.get_data_field::<u16>(offset)),
        Width::W32 => u64::from(reader.get_data_field::<u32>(offset)),
        Width::W64 => reader.get_data_field::<u64>(offset),
    }
}
