// Check that plotly's script in the package is the one that its publisher ships on npm.
//
// `npm ci` has compared the published package with the checksum in package-lock.json.

import { readFile } from "node:fs/promises";

const published = new URL("./node_modules/plotly.js-basic-dist-min/", import.meta.url);
const vendored = new URL("../iglens_tl/views/assets/plotly_basic/", import.meta.url);

for (const name of ["plotly-basic.min.js", "LICENSE"]) {
  const [theirs, ours] = await Promise.all(
    [published, vendored].map((folder) => readFile(new URL(name, folder))),
  );
  if (!theirs.equals(ours)) {
    console.error(`${name} is not that of plotly.js-basic-dist-min; copy it from node_modules`);
    process.exitCode = 1;
  }
}
