"""Published datasets as downloaded, faces, preparation, the frames table and its pixels, audits."""
