//! Groups of buffers that are made together: one list of what is in them, so that the bytes computed before are those
//! allocated.

use super::{
    buffer::{padded, Buffer, Element, Rows},
    device::Device,
};
use crate::Result;

/// What is made in a device's memory by its size alone.
pub(super) trait Made: Sized {
    type Size;
    fn make(device: &Device, size: Self::Size) -> Result<Self>;
    fn bytes_of(size: Self::Size) -> u128;
}

impl<T: Element> Made for Buffer<T> {
    /// Elements.
    type Size = usize;
    fn make(device: &Device, len: usize) -> Result<Self> {
        Buffer::zeros(device, len)
    }
    fn bytes_of(len: usize) -> u128 {
        len as u128 * size_of::<T>() as u128
    }
}

impl Made for Rows {
    /// Rows and columns.
    type Size = [usize; 2];
    fn make(device: &Device, [rows, cols]: [usize; 2]) -> Result<Self> {
        Rows::zeros(device, rows, cols)
    }
    fn bytes_of([rows, cols]: [usize; 2]) -> u128 {
        4 * rows as u128 * padded(cols) as u128
    }
}

/// What is made only sometimes.
impl<T: Made> Made for Option<Box<T>> {
    type Size = Option<T::Size>;
    fn make(device: &Device, size: Self::Size) -> Result<Self> {
        size.map(|size| T::make(device, size).map(Box::new)).transpose()
    }
    fn bytes_of(size: Self::Size) -> u128 {
        size.map_or(0, T::bytes_of)
    }
}

/// A struct of what is [`Made`], each field with its size, of the sizes of all.
macro_rules! made {
    ($(#[$doc:meta])* $vis:vis struct $name:ident($sizes:ident: $Sizes:ty) {
        $($(#[$field_doc:meta])* $field_vis:vis $field:ident: $type:ty = $size:expr,)*
    }) => {
        $(#[$doc])*
        $vis struct $name {
            pub(super) sizes: $Sizes,
            $($(#[$field_doc])* $field_vis $field: $type,)*
        }

        impl $crate::cuda::made::Made for $name {
            type Size = $Sizes;
            fn make(device: &$crate::cuda::Device, $sizes: $Sizes) -> $crate::Result<Self> {
                Ok($name {
                    $($field: $crate::cuda::made::Made::make(device, $size)?,)*
                    sizes: $sizes,
                })
            }
            fn bytes_of($sizes: $Sizes) -> u128 {
                0 $(+ <$type as $crate::cuda::made::Made>::bytes_of($size))*
            }
        }
    };
}
pub(super) use made;
