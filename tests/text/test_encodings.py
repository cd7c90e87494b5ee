"""The encodings of people's files are recognised, and decoded they are the texts."""

from pathlib import Path

import pytest

from hornbook.text.corpus import read_corpus
from hornbook.text.decoding import NotTextError
from hornbook.text.encodings import damage, guess

FRENCH = "La forêt était sombre, et l'été déjà passé. Où êtes-vous ? dit-elle à un garçon.\n"
TEXTS = {
    "french": (FRENCH, "cp1252"),
    "french, quoted": ("« La forêt… » — l’été à l’œuvre.\n", "cp1252"),
    "german": (
        "Der Förster ging über die Brücke. Straße, Äpfel. „Ach“, sagte er.\n",
        "cp1252",
    ),
    "spanish": ("El niño comió mañana; ¿qué pasó después? ¡Adiós, corazón!\n", "cp1252"),
    "portuguese": ("A ação não começou até às três. O coração do avô é bom.\n", "cp1252"),
    "swedish": ("På ön gick älgen över ån. Flickan såg räven också.\n", "cp1252"),
    "italian": ("Perché la città è così bella? Però può essere più. Lunedì e virtù.\n", "cp1252"),
    "english, quoted": ("“Don’t go,” she said — and he didn’t. It cost £5.\n", "cp1252"),
    "french and german": (FRENCH + "Der Förster ging über die Brücke und die Straße.\n", "cp1252"),
    "french of the old Mac": (FRENCH, "mac_roman"),
    "french of DOS": (FRENCH, "cp850"),
    "polish": ("Zażółć gęślą jaźń. Książę pojechał do lasu, gdzie żył wilk.\n", "cp1250"),
    "czech": ("Příliš žluťoučký kůň úpěl ďábelské ódy. Děti šly do lesa.\n", "cp1250"),
    "hungarian": ("Az erdőben egy őz állt. Tűz és víz, öröm és bánat.\n", "cp1250"),
    "turkish": ("Şimdi ormana gidiyoruz. Çocuklar ağaçların altında. Işık güzel.\n", "cp1254"),
    "lithuanian": ("Ąžuolas augo miške. Vaikai ėjo į mokyklą. Šuo lojo žąsims.\n", "cp1257"),
    "russian": ("Жили-были старик со старухой у самого синего моря.\n", "cp1251"),
    "russian of Unix": ("Жили-были старик со старухой у самого синего моря.\n", "koi8_r"),
    "korean": ("옛날 옛적에 호랑이가 담배 피우던 시절에 한 할머니가 살고 있었습니다.\n", "cp949"),
    "japanese": (
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと。\n",
        "shift_jis",
    ),
    "chinese": ("从前有座山，山里有座庙，庙里有个老和尚在给小和尚讲故事。\n", "gb18030"),
    "chinese of Taiwan": ("從前有座山，山裡有座廟，廟裡有個老和尚在給小和尚講故事。\n", "big5"),
    "greek": ("Μια φορά κι έναν καιρό ήταν ένας βασιλιάς με τρεις κόρες.\n", "cp1253"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_advice_gives_the_text_that_was_written(name: str, tmp_path: Path) -> None:
    text, encoding = TEXTS[name]
    book = tmp_path / "book.txt"
    book.write_bytes((text * 20).encode(encoding))
    with pytest.raises(NotTextError) as raised:
        read_corpus(book)
    assert raised.value.likely == encoding
    assert f"--encoding {encoding}" in str(raised.value)
    assert raised.value.line in text, "what the advice gives is shown"
    assert raised.value.line in str(raised.value)
    assert read_corpus(book, encoding=encoding).text == text * 20
    found = read_corpus(book, encoding="auto")
    assert found.text == text * 20
    assert encoding in found.notes[0]
    assert raised.value.line in found.notes[0]


@pytest.mark.parametrize("name", TEXTS)
def test_a_line_is_enough(name: str) -> None:
    text, encoding = TEXTS[name]
    assert guess(text.encode(encoding)) == encoding


@pytest.mark.parametrize("line", ["To be, or not to be.\n", FRENCH, "옛날 옛적에\n"])
def test_damaged_utf8_is_told_from_another_encoding(line: str, tmp_path: Path) -> None:
    text = line * 500
    data = bytearray(text.encode())
    at = data.index(b"\n", 200) + 1
    data[at:at] = b"\xff"
    book = tmp_path / "book.txt"
    book.write_bytes(data)
    with pytest.raises(NotTextError) as raised:
        read_corpus(book)
    said = str(raised.value)
    assert f"UTF-8 but for 1 byte (0xff at offset {at})" in said
    assert "--encoding utf-8:replace" in said
    assert "looks like" not in said
    for encoding in ("utf-8:replace", "auto"):
        found = read_corpus(book, encoding=encoding)
        assert found.text == data.decode(errors="replace")
        assert found.notes == ("U+FFFD replaces what is not utf-8 in 1 place",)


def test_a_text_cut_inside_a_character_is_utf8(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_bytes(("옛날 옛적에\n" * 500).encode()[:-2])
    with pytest.raises(NotTextError, match=r"UTF-8 but for 2 bytes"):
        read_corpus(book)


def test_one_letter_of_windows_may_also_be_damage(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_bytes(b"A cup of caf\xe9 au lait.\n")
    with pytest.raises(NotTextError, match="looks like cp1252") as raised:
        read_corpus(book)
    assert "'A cup of café au lait.'" in str(raised.value)
    assert "utf-8:replace" in str(raised.value)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_damage_is_found_in_its_place_whatever_the_chunks(size: int) -> None:
    data = "가나다".encode() + b"\xff\xfe" + "é".encode() + b"\xe9abc" + "가".encode()[:1]
    found = damage(data[at : at + size] for at in range(0, len(data), size))
    assert found.places == {9: 0xFF, 10: 0xFE, 13: 0xE9, 17: 0xEA}
    assert found.beyond_ascii
    assert not damage([b"abc", b"\xff"]).beyond_ascii
    assert damage(["가나다".encode()]).places == {}
