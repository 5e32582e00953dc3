'use strict';
// The beginning of the job: from here on everything that the runner's worker starts is one session.

const { ci, end, flag, options } = require('./guardctl.js');

end(() => {
  const args = ['start', ...options(['mode', 'allow', 'policy', 'workspace', 'resolver', 'pid', 'guardd', 'base'])];
  for (const name of ['no-sudo', 'no-docker', 'require']) {
    if (flag(name)) args.push(`--${name}`);
  }
  return ci(args);
});
