'use strict';
// The end of the job, after a failure and after a cancellation too. Where the job was watched from, and what shows that
// this is who has begun it, the runner gives to this program alone.

const { ci, end, options } = require('./guardctl.js');

end(() => {
  const dir = process.env.STATE_guard_dir;
  if (!dir) {
    console.log('guard: this job was not watched; see the step that begins it');
    return 0;
  }
  return ci(['stop', `--dir=${dir}`, ...options(['sarif', 'fail-on'])]);
});
