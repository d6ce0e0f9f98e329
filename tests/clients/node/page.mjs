// Opens the page at / in Chromium, asks two questions, and prints what it saw as JSON.
//
//   node page.mjs URL [PICTURE.png]
import { chromium } from "playwright-core";

const [url, picture] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
const problems = [];
page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
page.on("requestfailed", (request) => problems.push(`failed: ${request.url()} ${request.failure()?.errorText}`));
page.on("request", (request) => {
  if (!request.url().startsWith(url) && !request.url().startsWith("data:"))
    problems.push(`outside: ${request.url()}`);
});

async function ask(question, n) {
  await page.fill("#question", question);
  await page.keyboard.press("Enter");
  await page.waitForFunction(
    (count) => document.querySelectorAll(".assistant .text").length === count, n);
  await page.waitForSelector("#send:not([hidden])");
}

await page.goto(url);
await page.waitForSelector("#layers rect");
await ask("What is 12 + 7?", 1);
await ask("What is 20 + 22?", 2);
await page.waitForFunction(() => document.querySelector("#status dd") !== null);
await page.waitForTimeout(1500);
if (picture) await page.screenshot({ path: picture });
console.log(JSON.stringify({
  answers: await page.locator(".assistant .text").allTextContents(),
  cells: await page.locator("#layers rect").count(),
  health: await page.textContent("#health"),
  problems,
}));
await browser.close();
