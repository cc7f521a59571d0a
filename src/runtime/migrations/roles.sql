-- The roles of the services. They belong to the whole cluster and not to a database, so every migration looks for
-- what is missing of them first; changing nothing where nothing is missing lets many migrate at once.

do $$
declare
    wanted text;
    setting text;
    member text;
begin
    foreach wanted in array array[
        'tallybook_writer', 'tallybook_reader', 'tallybook_relay', 'tallybook_projector', 'tallybook_policies'
    ] loop
        if not exists (select from pg_roles where rolname = wanted) then
            execute format('create role %I nologin', wanted);
        end if;
        -- As in runtime/postgres.py: taking a role does not apply what is set on it, logging in as it does.
        foreach setting in array array[
            'statement_timeout=30s', 'lock_timeout=10s', 'transaction_timeout=60s',
            'idle_in_transaction_session_timeout=30s'
        ] loop
            if not exists (
                select from pg_db_role_setting s
                where s.setdatabase = 0 and s.setrole = wanted::regrole and setting = any (s.setconfig)
            ) then
                execute format(
                    'alter role %I set %I = %L', wanted, split_part(setting, '=', 1), split_part(setting, '=', 2));
            end if;
        end loop;
        -- The login of the services, where there is one, and who migrates: one URL may do for everything.
        for member in select rolname from pg_roles where rolname in ('tallybook_service', current_user) loop
            if not pg_has_role(member, wanted, 'SET') then
                execute format('grant %I to %I with inherit false, set true', wanted, member);
            end if;
        end loop;
    end loop;
end
$$;
