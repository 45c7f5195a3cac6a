"""Read a 2D slice from a PNG, JPEG, DICOM or NIfTI file; `reader.read_slice` is the entry."""
