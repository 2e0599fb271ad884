// Shows this server's own description. `defer` runs it when the page is there.
window.ui = SwaggerUIBundle({
  url: "/swagger/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // No parameter of the page's address may make it show another description.
  queryConfigEnabled: false,
  tryItOutEnabled: true,
  // A pasted token goes with the page.
  persistAuthorization: false,
  // No document is sent to a validator elsewhere.
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
