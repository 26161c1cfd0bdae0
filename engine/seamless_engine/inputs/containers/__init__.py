"""Where the files that make up an audio file begin and end, by their own headers. Nothing is decoded here."""
