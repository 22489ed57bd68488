import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  { linterOptions: { reportUnusedDisableDirectives: "error" } },
  {
    files: ["iglens_tl/**/*.js"],
    languageOptions: {
      ecmaVersion: 2022,
      // The scripts of a page share one scope; TypeScript checks it for unknown names.
      sourceType: "script",
      globals: globals.browser,
    },
    rules: {
      "no-undef": "off",
      "no-unused-vars": ["error", { vars: "local" }],
      eqeqeq: "error",
      "no-var": "error",
      "prefer-const": "error",
      "no-shadow": "off",
    },
  },
  { files: ["js/*.mjs"], languageOptions: { globals: globals.node } },
];
