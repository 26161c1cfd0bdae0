"""The structure of audio files: where a file, and each file that it was joined from, begins and ends by its headers."""
