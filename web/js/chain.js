/**
 * One function that calls the original first and then the addition, with the same `this` and arguments, and
 * returns what the original returned. The way in which this pack adds to a node's callbacks: never instead of them.
 *
 * @param {Function | undefined | null} original
 * @param {(this: any, ...args: any[]) => void} addition
 * @returns {(this: any, ...args: any[]) => any}
 */
export function chain(original, addition) {
  return function (...args) {
    const result = original?.apply(this, args);
    addition.apply(this, args);
    return result;
  };
}
