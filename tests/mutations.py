"""Seeded bugs: each switches one safety off. `pytest --mutation NAME` runs the suite with one of them in.

``tests`` names tests that notice it; `test_seeded_bugs.py` runs them and demands that they fail.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import zstandard

from manifest_sync import (
    canonical,
    decide,
    diff,
    fetch,
    landing,
    observe,
    pack,
    page_reader,
    plan,
    project_folder,
    push,
    report,
    repository,
    rootcheck,
    statcache,
    upload,
    workspace,
)
from manifest_sync.canonical import decompress
from manifest_sync.gc import gc
from manifest_sync.index import connection as index_connection
from manifest_sync.index import index
from manifest_sync.index import mark as index_mark
from manifest_sync.model import Path, Stat, State
from manifest_sync.observe import JOURNAL
from manifest_sync.pages import MAX_PAGE_RAW, parse_page
from manifest_sync.repository import Head, Raced
from manifest_sync.stores import directory
from manifest_sync.stores.base import NotFound, PreconditionFailed, Unknown
from manifest_sync.worktree import folders, read, replace, scan, trash
from manifest_sync.worktree.read import look


@dataclass(frozen=True)
class Mutation:
    """A safety that is switched off, the promise that it keeps, and who notices."""

    name: str
    promise: str
    apply: Callable[[], None]
    tests: tuple[str, ...]


def _drop_if_match() -> None:
    real = directory.DirectoryStore.put_if

    def put_if(self: Any, key: str, body: bytes, *, etag: str | None) -> str:
        return real(self, key, body, etag=directory._etag_of(self._path(key)))

    directory.DirectoryStore.put_if = put_if  # type: ignore[method-assign]


def _take_412_for_success() -> None:
    def swap(self: Any, expected: Head, manifest: Any, body: bytes) -> Head | Raced:
        try:
            return Head(manifest, self.store.put_if("manifest.json", body, etag=expected.etag), body)
        except PreconditionFailed:
            return Head(manifest, expected.etag, body)

    repository.Repository._swap = swap  # type: ignore[method-assign]


def _take_unknown_for_failed() -> None:
    real = repository.Repository._swap

    def swap(self: Any, expected: Head, manifest: Any, body: bytes) -> Head | Raced:
        try:
            return Head(manifest, self.store.put_if("manifest.json", body, etag=expected.etag), body)
        except Unknown:
            return Raced(self.load_head())
        except PreconditionFailed:
            return real(self, expected, manifest, body)

    repository.Repository._swap = swap  # type: ignore[method-assign]


def _forget_the_collection_lists() -> None:
    def collected(self: Any, head: Head, since: int) -> frozenset[str]:
        return frozenset()

    repository.Repository.collected = collected  # type: ignore[method-assign]


def _take_existence_for_safety() -> None:
    real = repository.Repository.collected

    def collected(self: Any, head: Head, since: int) -> frozenset[str] | None:
        named = real(self, head, since)
        if named is None:
            return None
        gone = set()
        for key in named:
            try:
                self.store.get_range(key, 0, 1)
            except NotFound:
                gone.add(key)
        return frozenset(gone)

    repository.Repository.collected = collected  # type: ignore[method-assign]


def _resume_without_looking() -> None:
    setattr(push, "drop_collected", lambda ws, head: None)  # noqa: B010


def _find_chunks_anywhere() -> None:
    def find(self: Any, chunk_id: Any) -> Any:
        page_id = self._ws.index.page_of_chunk(chunk_id)
        body = self._ws.index.load_page_body(page_id) if page_id else None
        if body is None:
            return None
        # As the real one, without asking whether the head still names the page.
        found = parse_page(decompress(body, MAX_PAGE_RAW), page_id)
        return {chunk.id: chunk for entry in found for chunk in entry.chunks}.get(chunk_id)

    upload._Uploader._find = find  # type: ignore[method-assign]
    index.Index.drop_pages = lambda self, keep: None  # type: ignore[method-assign]


def _delete_before_the_swap() -> None:
    real = gc._Collection._publish

    def publish(self: Any, head: Head, reachable: Any, keys: list[str]) -> Head | Raced:
        for key in keys:
            self._ws.repository.store.delete(key)
        return real(self, head, reachable, keys)

    gc._Collection._publish = publish  # type: ignore[method-assign]


def _skip_the_recheck() -> None:
    def check(self: Any, parent: int, name: bytes, path: Path, expected: Any) -> Any:
        return look(parent, name, follow=False)

    replace.Replacer._check = check  # type: ignore[method-assign]


def _skip_the_hash() -> None:
    class Anything(bytes):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = bytes.__hash__

    setattr(fetch, "hash_bytes", lambda data: Anything())  # noqa: B010


def _record_base_before_the_swap() -> None:
    real = index.Index.set_meta

    def set_meta(self: Any, key: str, value: str | None) -> None:
        real(self, key, value)
        if key == "attempt" and value is not None:
            self.publish_planned()

    index.Index.set_meta = set_meta  # type: ignore[method-assign]


def _ignore_the_racy_rule() -> None:
    for module in (statcache, upload):
        setattr(module, "trust", lambda ws, stat, clock: 1)  # noqa: B010


def _believe_torn_reads() -> None:
    setattr(read, "is_untouched", lambda found, stat: True)  # noqa: B010


def _disregard_ctime() -> None:
    real = read.same_stat

    def same_stat(one: Stat, other: Stat, *, trust_ctime: bool, trust_inode: bool) -> bool:
        return real(one, other, trust_ctime=False, trust_inode=trust_inode)

    setattr(read, "same_stat", same_stat)  # noqa: B010


def _keep_quiet_about_long_paths() -> None:
    real = scan.Scanner._list

    def list_(self: Any, folder: Path, *, recursive: bool) -> scan.Listing:
        return dataclasses.replace(real(self, folder, recursive=recursive), too_long=[])

    scan.Scanner._list = list_  # type: ignore[method-assign]


def _take_unseen_for_deleted() -> None:
    def forget(ws: Any, folder: Path, observed: Any) -> None:
        ws.index.forget_local_below(folder)
        ws.index.drop_folders_below(folder)

    setattr(statcache, "_forget_folder", forget)  # noqa: B010


def _overwrite_conflicts() -> None:
    for table in (plan._PULL, plan._PUSH):
        verb = plan.Verb.DOWNLOAD if table is plan._PULL else plan.Verb.UPLOAD
        for mode in ("copy", "full"):
            table[mode][diff.Case.EDIT_EDIT] = verb
    setattr(plan, "CONFLICTS", diff.CONFLICTS - {diff.Case.EDIT_EDIT})  # noqa: B010


def _let_files_be_folders() -> None:
    setattr(plan, "clashes", lambda present: frozenset())  # noqa: B010


def _look_at_the_scope_alone() -> None:
    observe.iter_outside = lambda *where: iter(())


def _accept_any_head() -> None:
    repository.Repository.check_descends = lambda self, head, **known: None  # type: ignore[method-assign]


def _settle_beside_a_run() -> None:
    real = workspace.Workspace

    def make(**parts: Any) -> workspace.Workspace:
        return real(**{**parts, "holds_lock": True})

    vars(project_folder)["Workspace"] = make


def _forget_where_it_stopped() -> None:
    real = landing.Landing._take

    def take(self: Any, *args: Any, **named: Any) -> int:
        try:
            return real(self, *args, **named)
        except BaseException:
            self.ws.index.set_meta(JOURNAL, None)
            raise

    landing.Landing._take = take  # type: ignore[method-assign]


def _settle_without_looking() -> None:
    real = trash.Trash.steps
    expected: dict[Path, State | None] = {}

    def steps(self: Any, run: str, first: int = 0) -> Iterator[Any]:
        for number, step in real(self, run, first):
            expected[step.path] = step.after
            yield number, step

    def read_state(ws: Any, path: Path) -> State | None:
        return expected.get(path)

    trash.Trash.steps = steps  # type: ignore[method-assign]
    statcache.read_state = read_state


def _drop_without_a_mark() -> None:
    index.Index.drop = lambda self, paths: None  # type: ignore[method-assign]


def _evict_sole_copies() -> None:
    index.Index.is_held = lambda self, path, state, live, *, in_one_chunk: True  # type: ignore[method-assign]


def _replace_without_the_trash() -> None:
    replace.Replacer._link_to_trash = lambda self, *where: None  # type: ignore[method-assign]


def _move_the_old_away_first() -> None:
    def move(self: Any, parent: int, name: bytes, path: Path, run: str, kept: bytes, expected: Any) -> None:
        os.rename(name, kept, src_dir_fd=parent, dst_dir_fd=self._area.trash(run))

    replace.Replacer._link_to_trash = move  # type: ignore[method-assign]


def _never_agree() -> None:
    index.Index.agree = lambda self, ranges: 0  # type: ignore[method-assign]


def _always_exit_with_0() -> None:
    report.RunReport.exit_code = property(lambda self: 0)  # type: ignore[assignment]


def _follow_links() -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    for module in (folders, replace):
        setattr(module, "OPEN_FOLDER", flags)  # noqa: B010


def _decode_without_bounds() -> None:
    def decompress(self: Any, body: bytes, limit: int = 0) -> bytes:
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=1 << 31)

    setattr(canonical, "decompress", partial(decompress, None))  # noqa: B010
    for module in (pack, page_reader, repository):
        if hasattr(module, "decompress"):
            setattr(module, "decompress", canonical.decompress)  # noqa: B010


def _write_objects_in_place() -> None:
    def publish(self: Any, temporary: str, path: str) -> None:
        self._make_folder(os.path.dirname(path))
        with open(temporary, "rb") as source, open(path, "wb", buffering=0) as target:
            target.write(source.read(1))
            target.write(source.read())
        os.unlink(temporary)

    directory.DirectoryStore._publish = publish  # type: ignore[method-assign]


def _accept_any_index() -> None:
    index_connection.IndexConnection._check_mark = lambda self, **how: None  # type: ignore[method-assign]


def _accept_any_root() -> None:
    rootcheck._is_another = lambda worktree, index: False


def _take_a_part_for_the_whole() -> None:
    rootcheck._survey = lambda worktree, index: rootcheck._Survey()


def _note_what_another_root_lacks() -> None:
    vars(statcache)["check_still_same_root"] = lambda ws: None


def _forget_the_old_token_too_soon() -> None:
    def announce(self: Any, present: Any) -> str:
        return real(self, ())

    real = index_mark.IndexMark.announce
    index_mark.IndexMark.announce = announce  # type: ignore[method-assign]


def _take_a_lost_row_for_a_deletion() -> None:
    decide.Decision.gone_here = lambda self: self.rows(plan.Verb.DELETE_REMOTE)  # type: ignore[method-assign]


def _trash_what_the_index_has_forgotten() -> None:
    def gone_there(self: Any, head: Head) -> Any:
        return list(self.rows(plan.Verb.DELETE_LOCAL))

    decide.Decision.gone_there = gone_there  # type: ignore[method-assign]


def _replace_whatever_is_there() -> None:
    setattr(push, "_check_replaced", lambda ws, entry: None)  # noqa: B010


_GC = "tests/test_gc_pushes.py"
_MARK = "tests/test_index_mark.py"
_ROUNDTRIP = "tests/test_roundtrip.py"
_ODDITIES = "tests/test_filesystem_oddities.py::test_oddity"
MUTATIONS = (
    Mutation(
        "drop-if-match",
        "P3",
        _drop_if_match,
        (
            "tests/test_store_contract.py",
            f"{_GC}::test_a_push_that_stalls_at_any_request_while_others_push_and_collect",
        ),
    ),
    Mutation(
        "412-is-success",
        "P3",
        _take_412_for_success,
        (f"{_GC}::test_a_push_that_stalls_at_any_request_while_others_push_and_collect",),
    ),
    Mutation(
        "unknown-is-failed",
        "P6",
        _take_unknown_for_failed,
        ("tests/test_machines_at_once.py::test_a_lost_reply_to_the_swap_is_found_to_have_succeeded",),
    ),
    Mutation(
        "no-collection-lists",
        "P4",
        _forget_the_collection_lists,
        (f"{_GC}::test_a_resumed_push_sends_again_what_was_collected",),
    ),
    Mutation(
        "existence-is-safety",
        "P4",
        _take_existence_for_safety,
        (f"{_GC}::test_a_resumed_push_sends_again_what_may_be_collected_at_any_moment",),
    ),
    Mutation(
        "resume-without-lists",
        "P4",
        _resume_without_looking,
        (f"{_GC}::test_a_resumed_push_sends_again_what_was_collected",),
    ),
    Mutation(
        "chunks-of-dead-pages",
        "P4",
        _find_chunks_anywhere,
        (f"{_GC}::test_a_copy_that_was_found_in_the_bucket_is_sent_again_when_its_original_was_collected",),
    ),
    Mutation(
        "delete-before-swap",
        "P4",
        _delete_before_the_swap,
        (f"{_GC}::test_a_resumed_push_sends_again_what_may_be_collected_at_any_moment",),
    ),
    Mutation(
        "no-recheck",
        "P8",
        _skip_the_recheck,
        ("tests/test_worktree_replace.py::test_a_target_that_is_not_what_was_expected_is_left_alone",),
    ),
    Mutation(
        "no-chunk-hash",
        "P17",
        _skip_the_hash,
        ("tests/test_machines_at_once.py::test_a_flipped_byte_never_reaches_the_tree",),
    ),
    Mutation(
        "base-before-swap",
        "P5",
        _record_base_before_the_swap,
        ("tests/test_machines_at_once.py::test_a_push_that_dies_at_a_write",),
    ),
    Mutation(
        "no-racy-rule",
        "P13",
        _ignore_the_racy_rule,
        ("tests/test_roundtrip.py::test_a_file_as_young_as_its_hash_is_hashed_again",),
    ),
    Mutation("torn-reads", "P13", _believe_torn_reads, (f"{_ODDITIES}[overwritten-while-read]",)),
    Mutation("no-ctime", "P13", _disregard_ctime, (f"{_ODDITIES}[mtime-restored]",)),
    Mutation("quiet-about-long-paths", "P14", _keep_quiet_about_long_paths, (f"{_ODDITIES}[4097-bytes]",)),
    Mutation(
        "unseen-is-deleted",
        "P12",
        _take_unseen_for_deleted,
        ("tests/test_absence.py::test_a_folder_moved_away_behind_a_symlink_is_not_deleted",),
    ),
    Mutation(
        "overwrite-conflicts",
        "P9",
        _overwrite_conflicts,
        (f"{_ROUNDTRIP}::test_both_edit_the_same_file",),
    ),
    Mutation(
        "files-as-folders",
        "P9",
        _let_files_be_folders,
        ("tests/test_planner_exhaustive.py::test_a_path_and_one_below_it",),
    ),
    Mutation(
        "blind-outside-the-scope",
        "P9",
        _look_at_the_scope_alone,
        ("tests/test_planner_exhaustive.py::test_a_part_of_it_and_what_cannot_be_seen",),
    ),
    Mutation(
        "accept-any-head",
        "P18",
        _accept_any_head,
        ("tests/test_rollback.py::test_a_stale_head_within_a_run_is_refused",),
    ),
    Mutation(
        "settle-blindly",
        "P11",
        _settle_without_looking,
        ("tests/test_crash_points.py", "-k", "pull and over and edits"),
    ),
    Mutation("settle-beside-a-run", "P8", _settle_beside_a_run, ("tests/test_midway.py", "-k", "beside")),
    Mutation(
        "forget-where-it-stopped",
        "P11",
        _forget_where_it_stopped,
        ("tests/test_midway.py", "-k", "interrupted"),
    ),
    Mutation("drop-unmarked", "P12", _drop_without_a_mark, ("tests/test_drop.py",)),
    Mutation("evict-sole-copies", "P8", _evict_sole_copies, ("tests/test_trash.py",)),
    Mutation(
        "no-object-is-whole",
        "P2",
        _write_objects_in_place,
        ("tests/test_store_directory.py", "tests/test_crash_points.py", "-k", "store_directory or push"),
    ),
    Mutation(
        "old-moved-away-first",
        "P7",
        _move_the_old_away_first,
        ("tests/test_crash_points.py", "-k", "pull and over and edits"),
    ),
    Mutation("never-agree", "P10", _never_agree, (_ROUNDTRIP,)),
    Mutation(
        "always-exit-0",
        "P14",
        _always_exit_with_0,
        (f"{_ROUNDTRIP}::test_both_edit_the_same_file",),
    ),
    Mutation(
        "follow-links",
        "P15",
        _follow_links,
        ("tests/test_worktree_replace.py", "tests/test_worktree_read.py", "-k", "symlink"),
    ),
    Mutation(
        "no-bounds",
        "P16",
        _decode_without_bounds,
        ("tests/test_canonical.py::test_bombs_and_garbage_are_format_errors",),
    ),
    Mutation("no-trash", "P8", _replace_without_the_trash, ("tests/test_undo.py",)),
    Mutation(
        "any-index",
        "P11",
        _accept_any_index,
        (f"{_MARK}::test_an_index_from_before_a_drop_deletes_nothing",),
    ),
    Mutation(
        "any-root",
        "P11",
        _accept_any_root,
        (f"{_MARK}::test_another_root_deletes_and_overwrites_nothing",),
    ),
    Mutation(
        "part-for-the-whole",
        "P11",
        _take_a_part_for_the_whole,
        (f"{_MARK}::test_what_a_copied_folder_lacks_is_not_deleted",),
    ),
    Mutation(
        "exchanged-root",
        "P12",
        _note_what_another_root_lacks,
        (f"{_MARK}::test_a_root_that_is_exchanged_while_it_is_looked_at_deletes_nothing",),
    ),
    Mutation(
        "mark-before-commit",
        "P5",
        _forget_the_old_token_too_soon,
        (f"{_MARK}::test_a_kill_beside_the_commit_leaves_an_index_that_is_used",),
    ),
    Mutation(
        "lost-row-is-deleted",
        "P11",
        _take_a_lost_row_for_a_deletion,
        (f"{_MARK}::test_a_lost_row_is_no_deletion",),
    ),
    Mutation(
        "forgotten-is-deleted",
        "P11",
        _trash_what_the_index_has_forgotten,
        (f"{_MARK}::test_nothing_is_deleted_here_that_the_bucket_holds",),
    ),
    Mutation(
        "replace-unseen",
        "P11",
        _replace_whatever_is_there,
        (f"{_MARK}::test_nothing_is_replaced_that_the_plan_does_not_know",),
    ),
)
BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}
