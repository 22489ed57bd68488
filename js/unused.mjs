// Find names that the scripts of the report declare for one another and none uses.

import { readdir, readFile } from "node:fs/promises";

const folder = new URL("../iglens_tl/views/assets/scripts/", import.meta.url);
const names = (await readdir(folder)).filter((name) => name.endsWith(".js"));
const texts = await Promise.all(names.map((name) => readFile(new URL(name, folder), "utf8")));
const code = texts.join("\n").replaceAll(/^\s*(\/\/|\*|\/\*\*).*$/gm, "");

for (const [, name] of code.matchAll(/^(?:async )?(?:const|let|function) (\w+)/gm)) {
  if (code.match(new RegExp(`\\b${name}\\b`, "g")).length < 2) {
    console.error(`${name} is declared and never used`);
    process.exitCode = 1;
  }
}
