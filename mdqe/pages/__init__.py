"""Pages for people: HTML files that hold all they show and ask no network for anything."""
