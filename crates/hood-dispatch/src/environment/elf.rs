//! What the loader reads in an executable or a shared object.

use std::fs;
use std::io;
use std::path::Path;

use object::elf::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, FileHeader32, FileHeader64, PT_LOAD,
};
use object::read::elf::{Dyn as _, FileHeader, ProgramHeader as _};
use object::{Endianness, FileKind};

/// The largest object that is read; libpython has 30 MB with symbols.
const OBJECT_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Objects with the same one can be loaded together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    wide: bool,
    number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) machine: Machine,
    /// The loader that an executable asks for.
    pub(super) interpreter: Option<String>,
    pub(super) needed: Vec<String>,
    /// As written, with `$ORIGIN`.
    pub(super) rpath: Vec<String>,
    pub(super) runpath: Vec<String>,
}

/// `None` for what is not ELF.
pub(super) fn read(path: &Path) -> io::Result<Option<Object>> {
    if fs::metadata(path)?.len() > OBJECT_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "an object larger than half a gigabyte"));
    }
    let data = fs::read(path)?;
    let parsed = match FileKind::parse(&*data) {
        Ok(FileKind::Elf32) => parse::<FileHeader32<Endianness>>(&data, false),
        Ok(FileKind::Elf64) => parse::<FileHeader64<Endianness>>(&data, true),
        _ => return Ok(None),
    };
    parsed.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

fn parse<H: FileHeader<Endian = Endianness>>(data: &[u8], wide: bool) -> object::read::Result<Object> {
    let header = H::parse(data)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    let mut object = Object {
        machine: Machine { wide, number: header.e_machine(endian).0 },
        interpreter: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
    };
    // By segments, as the loader does: sections may have been stripped.
    for segment in segments {
        if let Some(interpreter) = segment.interpreter(endian, data)? {
            object.interpreter = Some(String::from_utf8_lossy(interpreter).into_owned());
        }
        let Some(dynamic) = segment.dynamic(endian, data)? else { continue };
        let value = |tag| {
            dynamic.iter().find(|entry| entry.d_tag(endian) == tag).map(|entry| entry.d_val(endian).into())
        };
        let (Some(address), Some(size)) = (value(DT_STRTAB), value(DT_STRSZ)) else { continue };
        let strings = at_address::<H>(data, endian, address, size).unwrap_or_default();
        let text = |offset: u64| {
            let rest =
                usize::try_from(offset).ok().and_then(|offset| strings.get(offset..)).unwrap_or_default();
            let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            String::from_utf8_lossy(&rest[..end]).into_owned()
        };
        for entry in dynamic.iter().take_while(|entry| entry.d_tag(endian) != object::elf::DT_NULL) {
            let tag = entry.d_tag(endian);
            let found = match tag {
                DT_NEEDED => &mut object.needed,
                DT_RPATH => &mut object.rpath,
                DT_RUNPATH => &mut object.runpath,
                _ => continue,
            };
            let text = text(entry.d_val(endian).into());
            if tag == DT_NEEDED {
                found.push(text);
            } else {
                found.extend(text.split(':').filter(|dir| !dir.is_empty()).map(str::to_owned));
            }
        }
    }
    Ok(object)
}

/// The bytes that will be mapped at an address.
fn at_address<H: FileHeader<Endian = Endianness>>(
    data: &[u8],
    endian: Endianness,
    address: u64,
    size: u64,
) -> Option<&[u8]> {
    let segments = H::parse(data).ok()?.program_headers(endian, data).ok()?;
    segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD).find_map(|segment| {
        let within = address.checked_sub(segment.p_vaddr(endian).into())?;
        let file_size: u64 = segment.p_filesz(endian).into();
        let end = within.checked_add(size).filter(|end| *end <= file_size)?;
        let offset: u64 = segment.p_offset(endian).into();
        let start = usize::try_from(offset.checked_add(within)?).ok()?;
        data.get(start..usize::try_from(offset.checked_add(end)?).ok()?)
    })
}
