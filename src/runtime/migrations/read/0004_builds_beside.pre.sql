-- Several builds of a declaration are fed side by side. `replaced_at`: when another took its place; `tallybook back`
-- gives it back to the last of them. While a build is filled in bulk, its checkpoints stand at position -1, so nobody
-- else moves them; should that end before its time, what is in the build is worth nothing.

alter table read.builds add column replaced_at timestamptz;
