"""Groups of genres, and their colours in figures and pages."""

# A movie has the colour of the first group that contains one of its genres.
GENRE_GROUPS = {
    "Animation, children": ("Animation", "Children"),
    "Documentary": ("Documentary",),
    "Horror": ("Horror",),
    "Science fiction, fantasy": ("Sci-Fi", "Fantasy"),
    "Action, adventure": ("Action", "Adventure", "War", "Western"),
    "Crime, thriller": ("Crime", "Thriller", "Mystery", "Film-Noir"),
    "Comedy": ("Comedy",),
    "Drama, other": (),
}
# Okabe and Ito's palette, which the colour-blind can tell apart, with grey for its black.
GENRE_COLOURS = (
    "#e69f00", "#56b4e9", "#cc79a7", "#0072b2",
    "#d55e00", "#009e73", "#d9c400", "#8a8f98",
)  # fmt: skip
