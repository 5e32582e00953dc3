'use strict';
// What both halves of the action share. No dependency: what runs before a job is watched should be little, and read.

const { spawnSync } = require('node:child_process');

/** An input of the action; '' where it was not given. */
function input(name) {
  return (process.env[`INPUT_${name.toUpperCase()}`] || '').trim();
}

/** An input that is true or false. */
function flag(name) {
  const value = input(name).toLowerCase();
  if (!['', 'true', 'false'].includes(value)) {
    throw new Error(`input ${name}: "${value}": expected true or false`);
  }
  return value === 'true';
}

/** The options of `guardctl` for those inputs that were given. */
function options(names) {
  return names.filter((name) => input(name)).map((name) => `--${name}=${input(name)}`);
}

/** Runs `guardctl ci …` with the runner's own files and streams; the exit status. */
function ci(args) {
  const program = input('guardctl') || 'guardctl';
  const done = spawnSync(program, ['ci', ...args], { stdio: 'inherit' });
  if (done.error) {
    const hint = done.error.code === 'ENOENT' ? 'install guard in a step before, or give the input guardctl' : 'see above';
    throw new Error(`${program}: ${done.error.code || done.error.message}: ${hint}`);
  }
  return done.status === null ? 1 : done.status;
}

/** Ends this half with a status, or with an error that the runner shows. */
function end(half) {
  try {
    process.exitCode = half();
  } catch (error) {
    const text = String(error.message).replace(/%/g, '%25').replace(/\r/g, '%0D').replace(/\n/g, '%0A');
    console.log(`::error title=guard::${text}`);
    process.exitCode = 1;
  }
}

module.exports = { ci, end, flag, input, options };
