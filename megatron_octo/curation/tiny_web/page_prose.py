"""Real English prose that every Python brings along: the language reference of `help()`, and docstrings of its standard library.

Sources are parsed, never imported. Other languages have a few sentences of ours.
"""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from random import Random

#: Shorter ones say too little to be a page's subject.
MIN_WORDS = 25
_NOT_DOCUMENTATION = {
    "test",
    "tests",
    "site-packages",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "encodings",
    "pydoc_data",
}

#: A title and its paragraphs.
Section = tuple[str, list[str]]

_FOREIGN = {
    "de": (
        "Der Zug nach Hamburg fährt heute von einem anderen Bahnsteig ab, weil die Strecke gesperrt ist.",
        "Im Garten hinter dem Haus stehen drei alte Apfelbäume, die jedes Jahr weniger Früchte tragen.",
        "Wer früh aufsteht, findet auf dem Markt noch frisches Brot und Käse aus der Gegend.",
        "Die Bibliothek hat ihre Öffnungszeiten geändert und schließt am Freitag bereits um vier Uhr.",
        "Meine Großmutter erzählte gern von der Zeit, als es im Dorf nur ein einziges Telefon gab.",
        "Für den Teig braucht man Mehl, Butter, zwei Eier und ein wenig Geduld beim Kneten.",
        "Nach dem Regen war der Weg so aufgeweicht, dass wir lieber über die Wiese gingen.",
        "Das Museum zeigt bis zum Herbst Zeichnungen, die lange als verschollen galten.",
    ),
    "fr": (
        "Le train pour Lyon part aujourd'hui d'un autre quai, car la voie est fermée pour travaux.",
        "Dans le jardin derrière la maison, trois vieux pommiers donnent chaque année moins de fruits.",
        "Ceux qui se lèvent tôt trouvent encore du pain frais et du fromage de la région au marché.",
        "La bibliothèque a changé ses horaires et ferme désormais à quatre heures le vendredi.",
        "Ma grand-mère aimait raconter l'époque où le village n'avait qu'un seul téléphone.",
        "Pour la pâte, il faut de la farine, du beurre, deux œufs et un peu de patience.",
        "Après la pluie, le chemin était si boueux que nous avons préféré traverser la prairie.",
        "Le musée expose jusqu'à l'automne des dessins que l'on croyait perdus depuis longtemps.",
    ),
    "es": (
        "El tren a Sevilla sale hoy de otro andén, porque la vía está cerrada por obras.",
        "En el jardín detrás de la casa hay tres viejos manzanos que cada año dan menos fruta.",
        "Quien madruga encuentra todavía pan fresco y queso de la comarca en el mercado.",
        "La biblioteca ha cambiado su horario y los viernes cierra ya a las cuatro de la tarde.",
        "A mi abuela le gustaba hablar de los tiempos en que el pueblo tenía un solo teléfono.",
        "Para la masa hacen falta harina, mantequilla, dos huevos y un poco de paciencia.",
        "Después de la lluvia el camino estaba tan embarrado que preferimos cruzar el prado.",
        "El museo muestra hasta el otoño unos dibujos que durante mucho tiempo se dieron por perdidos.",
    ),
}


def sections() -> list[Section]:
    """All there is on this machine, in an order that depends on the version of Python alone."""
    return [*_reference(), *_docstrings()]


def foreign(rng: Random) -> Section:
    """A page in German, French or Spanish."""
    sentences = _FOREIGN[rng.choice(sorted(_FOREIGN))]
    chosen = rng.sample(sentences, len(sentences))
    return f"{' '.join(chosen[0].split()[:4])} {rng.randrange(10_000)}", [
        " ".join(chosen[:3]),
        " ".join(chosen[3:5]),
        " ".join(chosen[5:]),
    ]


def _reference() -> Iterator[Section]:
    for name, text in sorted(topics.items()):
        paragraphs = _paragraphs(text)
        for start in range(0, len(paragraphs), 4):
            if section := _long_enough(f"The Python language: {name}", paragraphs[start : start + 4]):
                yield section


def _docstrings() -> Iterator[Section]:
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        parts = file.relative_to(library).with_suffix("").parts
        if not _NOT_DOCUMENTATION & set(parts):
            yield from _documented(".".join(parts), file.read_bytes())


def _documented(module: str, source: bytes) -> Iterator[Section]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # templates and files for other versions
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            name = module if isinstance(node, ast.Module) else f"{module}: {node.name}"
            if section := _long_enough(name, _paragraphs(text)):
                yield section


def _long_enough(title: str, paragraphs: list[str]) -> Section | None:
    return (title, paragraphs) if sum(len(text.split()) for text in paragraphs) >= MIN_WORDS else None


def _paragraphs(text: str) -> list[str]:
    return [" ".join(lines.split()) for lines in text.split("\n\n") if lines.strip()]
