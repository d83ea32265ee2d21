"""Readers of video files, one per kind of file; `data.read` chooses by suffix and content.

    ffmpeg      AVI, MP4, MOV, MKV and the like, whatever is in them: H.264, H.265 (HEVC), motion JPEG
    dicom       DICOM, with dicom_pixels (its compressions), dicom_grey, dicom_values, dicom_source beside it
    arrays      NPY, NPZ; nifti: NIfTI
    video       what all of them give: `Video`, with its limits
"""
