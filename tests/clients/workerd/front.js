// `/{Class}/{name}/rest` goes to that object's `HttpService`, which sees `/rest`.
export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const [, className, name, ...rest] = url.pathname.split("/");
    url.pathname = "/" + rest.join("/");
    const port = await env.PORT.connect(env.ADDRESS);
    const object = await port.getEntrypoint(className, decodeURIComponent(name));
    return object.fetch(new Request(url, request));
  },
};
