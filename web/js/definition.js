/**
 * Reading a node definition as the host sends it (`/object_info`): what may be chosen, and what the defaults are.
 *
 * @typedef {object} NodeDefinition
 * @property {string} name
 * @property {{required?: Record<string, any[]>, optional?: Record<string, any[]>}} input
 */

/**
 * @param {NodeDefinition} definition
 * @returns {Record<string, any[]>} each input's [type or list of choices, options]
 */
function inputsOf(definition) {
  return { ...definition.input?.required, ...definition.input?.optional };
}

/**
 * The choices of one dropdown. Both spellings: `[["a", "b"], {...}]` and `["COMBO", {options: ["a", "b"]}]`.
 *
 * @param {NodeDefinition} definition
 * @param {string} input
 * @returns {string[]}
 */
export function choicesOf(definition, input) {
  const [type, options] = inputsOf(definition)[input] ?? [];
  return Array.isArray(type) ? type : (options?.options ?? []);
}

/**
 * The value of every input that has one by itself: the stated default, or a dropdown's first choice.
 *
 * @param {NodeDefinition} definition
 * @returns {Record<string, any>}
 */
export function defaultsOf(definition) {
  /** @type {Record<string, any>} */
  const values = {};
  for (const [name, [, options]] of Object.entries(inputsOf(definition))) {
    const value = options?.default ?? choicesOf(definition, name)[0];
    if (value !== undefined) values[name] = value;
  }
  return values;
}
