"""Reads files that hold a password and nothing else: one line of UTF-8. The end of the line is no
part of the password, be it that of Unix (LF) or of Windows (CR LF). Everything else is, blanks
too."""

from pathlib import Path

_BYTE_ORDER_MARK = "\ufeff"


class PasswordFileError(ValueError):
    """The file cannot be used; the text says what is expected, and nothing of what is in it."""


def read_password(file: Path) -> str:
    """Raises PasswordFileError."""
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        raise PasswordFileError(f"a file that can be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise PasswordFileError(f"text in UTF-8 (at byte {error.start} it is not)") from None
    password = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    if password.startswith(_BYTE_ORDER_MARK):
        raise PasswordFileError("text without a byte order mark at its beginning")
    if not password:
        raise PasswordFileError("a password in it")
    if "\n" in password:
        raise PasswordFileError("one line, the password")
    if "\0" in password:
        raise PasswordFileError("a password without a NUL character")
    return password
