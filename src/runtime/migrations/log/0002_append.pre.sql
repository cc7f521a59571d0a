-- The only way in. Fetch the tips, decide in memory, insert: three statements a batch, whatever its size.

-- Begins a generation of a writer, so that nothing its earlier sessions may still send is accepted. Under the lock
-- of append: when this returns, what earlier sessions sent has been committed or never will be.
create function log.begin_writing(in_writer uuid, out generation bigint, out incarnation uuid, out lanes smallint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    this_timeline constant integer :=
        ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer;
begin
    perform pg_advisory_xact_lock(2047, 1);
    select i.id into incarnation from log.incarnations i where i.timeline = this_timeline;
    if not found then
        raise exception using errcode = 'TB002', message = format(
            'timeline %s has no row in log.incarnations: this log was restored or promoted and nobody has said so',
            this_timeline);
    end if;
    insert into log.writers as w values (in_writer, 1)
    on conflict (writer) do update set generation = w.generation + 1
    returning w.generation into generation;
    select s.lanes into lanes from log.settings s;
end
$$;

-- Whether an array has this many elements, counted from 1, and only where they may be, nulls.
create function log.fits(given anycompatiblearray, length integer, nulls boolean) returns boolean
language sql immutable parallel safe
as $$
select given is not null
    and coalesce(array_dims(given), '[1:0]') = '[1:' || length::text || ']'
    and (nulls or array_position(given, null) is null)
$$;

-- A batch of appends, dictionary-encoded. Streams: name, context and lane of each distinct one. Appends: how many
-- tips and events each has, its request's digest and fingerprint (null where nothing can repeat). Tips: the
-- number of the stream, and the version and event id that its last event must have (0 and the nil id: none).
-- Events: the number of the tip whose stream they go to. Numbers count from 1.
--
-- Verdicts, one an append: 1 appended, from position `first`; 2 conflict; 3 duplicate of the `count` events from
-- `first`; 4 mismatch: the digest is bound to another fingerprint. An append of no events (a refusal) is
-- judged in the same way and writes nothing.
--
-- What makes holes, or pairs one thing with another, is refused here (TB003). That a new stream's context is the one
-- of its category is left to the caller, who knows the categories; it never changes afterwards.
create function log.append(
    in_writer uuid, in_generation bigint,
    in_streams text[], in_contexts text[], in_lanes smallint[],
    in_tip_counts integer[], in_event_counts integer[], in_digests bytea[], in_fingerprints bytea[],
    in_tip_streams integer[], in_tip_versions bigint[], in_tip_ids uuid[],
    in_event_tips integer[], in_event_ids uuid[], in_event_types text[],
    in_event_data bytea[], in_event_metadata bytea[],
    out verdicts smallint[], out firsts bigint[], out counts integer[], out at timestamptz
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
declare
    streams constant integer := cardinality(in_streams);
    appends constant integer := cardinality(in_tip_counts);
    tips constant integer := cardinality(in_tip_streams);
    events constant integer := cardinality(in_event_ids);
    head bigint;
    current_versions bigint[];
    current_ids uuid[];
    versions bigint[];
    ids uuid[];
    probed boolean := false;
    known_firsts bigint[];
    known_counts integer[];
    known_same boolean[];
    positions bigint[];
    new_versions bigint[];
    new_streams integer[];
    bound integer;
    inserted bytea[];
    conflicts boolean;
    refusals boolean := false;
    at_tip integer;
    at_event integer;
    holds boolean;
    s integer;
    bad boolean;
    begins_at bigint;
begin
    perform pg_advisory_xact_lock(2047, 1);
    -- From here on every statement has a snapshot taken after the lock: it sees all that was committed before.

    perform from log.writers w where w.writer = in_writer and w.generation = in_generation;
    if not found then
        raise exception using errcode = 'TB001', message = 'another generation of this writer has begun';
    end if;

    if not coalesce(
        appends between 1 and 4096 and streams <= 65536 and tips <= 65536 and events <= 65536, false)
    then
        raise exception using errcode = 'TB003', message = 'a batch has 1 to 4,096 appends and at most 65,536 rows';
    end if;
    if not (
        log.fits(in_streams, streams, false) and log.fits(in_contexts, streams, false)
        and log.fits(in_lanes, streams, false)
        and log.fits(in_tip_counts, appends, false) and log.fits(in_event_counts, appends, false)
        and log.fits(in_digests, appends, true) and log.fits(in_fingerprints, appends, true)
        and log.fits(in_tip_streams, tips, false) and log.fits(in_tip_versions, tips, false)
        and log.fits(in_tip_ids, tips, false)
        and log.fits(in_event_tips, events, false) and log.fits(in_event_ids, events, false)
        and log.fits(in_event_types, events, false) and log.fits(in_event_data, events, false)
        and log.fits(in_event_metadata, events, false)
    ) then
        raise exception using errcode = 'TB003', message = 'arrays that do not fit each other, or nulls in them';
    end if;
    select bool_or(t not between 0 and 1024 or e not between 0 and 1000) or sum(t) <> tips or sum(e) <> events
        into bad from unnest(in_tip_counts, in_event_counts) as u (t, e);
    if bad then
        raise exception using errcode = 'TB003',
            message = 'an append has up to 1,024 streams and 1,000 events, and all of them belong to one';
    end if;

    select e.position, e.recorded_at into begins_at, at from log.events e order by e.position desc limit 1;
    begins_at := coalesce(begins_at, 0);
    at := greatest(clock_timestamp(), at + interval '1 microsecond');

    -- Fetch: the last event of every stream. Its context is that of the stream, for ever.
    select
        array_agg(coalesce(t.version, 0) order by u.number),
        array_agg(coalesce(t.event_id, '00000000-0000-0000-0000-000000000000') order by u.number),
        bool_or(u.lane <> log.lane_of(u.stream, n.lanes) or u.context <> t.context)
            or count(distinct u.stream collate "C") <> count(*)
    into current_versions, current_ids, bad
    from log.settings n,
    unnest(in_streams, in_contexts, in_lanes) with ordinality as u (stream, context, lane, number)
    left join lateral (
        select e.version, e.event_id, e.context from log.events e
        where e.stream = u.stream collate "C" order by e.version desc limit 1
    ) t on true;
    if bad then
        raise exception using errcode = 'TB003',
            message = 'a stream in the wrong lane, of another context, or twice in the dictionary';
    end if;

    for i in 1..appends loop
        if in_event_counts[i] = 0 and in_digests[i] is not null then
            refusals := true;
        end if;
    end loop;

    -- Decide, and decide once more where requests turn out to be repeats.
    for round in 1..3 loop
        if probed or refusals then
            select array_agg(r.first_position order by u.number), array_agg(r.count order by u.number),
                array_agg(r.fingerprint = u.fingerprint order by u.number)
            into known_firsts, known_counts, known_same
            from unnest(in_digests, in_fingerprints) with ordinality as u (digest, fingerprint, number)
            left join lateral (
                select q.first_position, q.count, q.fingerprint from log.requests q where q.digest = u.digest
            ) r on true;
            probed := true;
        end if;

        versions := current_versions;
        ids := current_ids;
        verdicts := array_fill(2::smallint, array[appends]);
        firsts := array_fill(0::bigint, array[appends]);
        counts := array_fill(0, array[appends]);
        positions := array_fill(0::bigint, array[events]);
        new_versions := array_fill(0::bigint, array[events]);
        new_streams := array_fill(0, array[events]);
        head := begins_at;
        at_tip := 0;
        at_event := 0;
        bound := 0;
        conflicts := false;
        for i in 1..appends loop
            if probed and known_firsts[i] is not null then
                verdicts[i] := case when known_same[i] then 3 else 4 end;
                firsts[i] := known_firsts[i];
                counts[i] := known_counts[i];
            else
                holds := true;
                for t in at_tip + 1..at_tip + in_tip_counts[i] loop
                    s := in_tip_streams[t];
                    if versions[s] = in_tip_versions[t] and ids[s] = in_tip_ids[t] then
                        continue;
                    end if;
                    if s not between 1 and streams then
                        raise exception using errcode = 'TB003', message = 'a tip without a stream';
                    end if;
                    holds := false;
                    exit;
                end loop;
                if not holds then
                    conflicts := true;
                else
                    verdicts[i] := 1;
                    firsts[i] := head + 1;
                    counts[i] := in_event_counts[i];
                    if in_event_counts[i] > 0 and in_digests[i] is not null then
                        bound := bound + 1;
                    end if;
                    for e in at_event + 1..at_event + in_event_counts[i] loop
                        if in_event_tips[e] <= at_tip or in_event_tips[e] > at_tip + in_tip_counts[i] then
                            raise exception using errcode = 'TB003', message = 'an event without a tip of its append';
                        end if;
                        s := in_tip_streams[in_event_tips[e]];
                        head := head + 1;
                        versions[s] := versions[s] + 1;
                        ids[s] := in_event_ids[e];
                        positions[e] := head;
                        new_versions[e] := versions[s];
                        new_streams[e] := s;
                    end loop;
                end if;
            end if;
            at_tip := at_tip + in_tip_counts[i];
            at_event := at_event + in_event_counts[i];
        end loop;

        -- A repeat has precedence over a conflict.
        if conflicts and not probed then
            probed := true;
            continue;
        end if;
        exit when bound = 0;
        with bind as (
            insert into log.requests
            select u.digest, u.fingerprint, u.first, u.count
            from unnest(in_digests, in_fingerprints, firsts, counts, verdicts)
                as u (digest, fingerprint, first, count, verdict)
            where u.verdict = 1 and u.count > 0 and u.digest is not null
            on conflict do nothing
            returning digest
        )
        select array_agg(digest) into inserted from bind;
        exit when coalesce(cardinality(inserted), 0) = bound;
        if round = 3 then
            raise exception using errcode = 'TB003', message = 'one digest twice in a batch';
        end if;
        delete from log.requests r where r.digest = any (inserted);
        probed := true;
    end loop;

    insert into log.events
        (position, stream, version, event_id, type, context, lane, data, metadata, recorded_at)
    select e.position, u.stream, e.version, e.event_id, e.type, u.context, u.lane, e.data, e.metadata, append.at
    from unnest(positions, new_streams, new_versions, in_event_ids, in_event_types, in_event_data, in_event_metadata)
            as e (position, stream, version, event_id, type, data, metadata)
        join unnest(in_streams, in_contexts, in_lanes) with ordinality as u (stream, context, lane, number)
            on u.number = e.stream
    where e.position > 0
    order by e.position;
end
$$;

revoke all on function log.begin_writing, log.fits, log.append from public;
grant execute on function log.begin_writing, log.append to tallybook_writer, tallybook_policies;
